"""Reconstructions of the same few images at fixed moments of a masked autoencoder's training."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from images.augmentation import to_bytes
from models.mae import MaskedAutoencoder
from shards.seals import check_files
from training.encoders import write_tensors

MOMENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
FILE = "snapshots.safetensors"


class Snapshots:
    """Reconstructions of n images at shares `MOMENTS` of the training; part of what a checkpoint holds.

    images: (n, 3, h, w) normalised; mask: (n, L) bool, True is hidden; both fixed. Taking a snapshot changes nothing in
    the model and draws no random number.
    """

    def __init__(self, images: torch.Tensor, mask: torch.Tensor, *, steps: int) -> None:
        self.images, self.mask = images, mask
        self._due = [round(moment * steps) for moment in MOMENTS]
        self._pixels = torch.zeros(len(MOMENTS), *images.shape, dtype=torch.uint8)

    def take(self, done: int, model: MaskedAutoencoder) -> None:
        """Reconstruct with the model after `done` steps, where a moment falls on that step."""
        if done in self._due:
            device = next(model.parameters()).device
            pixels = to_bytes(model.reconstruct(self.images.to(device), self.mask.to(device)).float()).cpu()
            for place, due in enumerate(self._due):
                if due == done:
                    self._pixels[place] = pixels

    def write(self, folder: Path) -> None:
        """Write images, masks and reconstructions into an existing folder."""
        state = {"images": to_bytes(self.images), "mask": self.mask.to(torch.uint8), "reconstructions": self._pixels}
        write_tensors(folder / FILE, state)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The reconstructions so far."""
        return {"reconstructions": self._pixels}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over the reconstructions of `state_dict`."""
        self._pixels = state["reconstructions"]


def read_snapshots(folder: Path) -> dict[str, torch.Tensor]:
    """images (n, 3, h, w) uint8, mask (n, L) uint8, 1 is hidden, reconstructions (len(MOMENTS), n, 3, h, w) uint8.

    A damaged file is a ValueError that names it.
    """
    check_files(folder, FILE)
    return load_file(folder / FILE)
