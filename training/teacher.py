"""The teacher's folder: written, read as the frozen teacher of the streaming stages."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from images.decoding import decode_square
from models.teachers import CONFIG, WEIGHTS, load_teacher, read_config
from pipeline.files import sha256_of, whole_folder, write_json
from pipeline.image_shards import ImageShards
from pipeline.seals import check_files, write_manifest
from training.encoders import write_tensors

SPLITS = ("train", "val", "test")


class FrozenTeacher:
    """A teacher folder on a device: `vit`, and images in [0, 1] normalised as it expects them."""

    def __init__(self, folder: str | Path, device: torch.device) -> None:
        check_files(folder, WEIGHTS, CONFIG)
        self.config = read_config(folder)
        self.vit = load_teacher(folder).to(device)
        self.device = device
        size = self.config["image_size"]
        self.image_size = (size, size) if isinstance(size, int) else tuple(size)
        patch = self.config["patch_size"]
        self.grid = (self.image_size[0] // patch, self.image_size[1] // patch)
        self._mean, self._std = (
            torch.tensor(self.config[name], device=device).view(3, 1, 1) for name in ("mean", "std")
        )

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, h, w) in [0, 1] -> the teacher's input, on its device."""
        return (images.to(self.device) - self._mean) / self._std

    def tokens(self, images: torch.Tensor, *, token_layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Class token (B, D) and patch tokens (B, L, D) of images (B, 3, h, w) in [0, 1] of any size, with gradients to
        the images.
        """
        resized = F.interpolate(images, self.image_size, mode="bilinear", align_corners=False)
        entering: list[torch.Tensor] = []
        block = self.vit.blocks[-max(1, token_layer)]
        hook = block.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
        try:
            after = self.vit.forward_features(self.normalise(resized))
        finally:
            hook.remove()
        found = entering[0] if token_layer else after
        return found[:, 0], found[:, self.vit.num_prefix_tokens :]

    def header(self) -> dict:
        """What every shard made with this teacher says of it."""
        return {"grid": list(self.grid), "patch_size": self.config["patch_size"], "teacher": self.config["digest"]}

    def decode(self, images: list[bytes]) -> torch.Tensor:
        """Encoded images -> the teacher's input (B, 3, h, w): whole images, resized and normalised, on its device."""
        height, width = self.image_size
        assert height == width, "whole images are decoded to squares"
        pixels = np.stack([decode_square(image, height) for image in images])
        return self.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)

    def batches(self, folder: str | Path, batch_size: int) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Ids (B,) and normalised whole images (B, 3, h, w) of every split, a batch at a time: constant memory."""
        for split in SPLITS:
            shards = ImageShards(folder, split)
            for start in range(0, len(shards), batch_size):
                rows = range(start, min(start + batch_size, len(shards)))
                yield shards.ids[rows.start : rows.stop], self.decode([shards.bytes(row) for row in rows])


def write_teacher(
    folder: Path, vit: torch.nn.Module, architecture: dict, *, source: str, mean: tuple, std: tuple
) -> None:
    """Write weights, config.json and manifest: what `models.teachers.load_teacher` reads."""
    with whole_folder(folder) as target:
        write_tensors(target / WEIGHTS, vit.state_dict())
        height, width = vit.patch_embed.img_size
        write_json(
            target / CONFIG,
            {
                "architecture": architecture,
                "image_size": height if height == width else [height, width],
                "patch_size": vit.patch_embed.patch_size[0],
                "mean": list(mean),
                "std": list(std),
                "digest": sha256_of(target / WEIGHTS),
                "source": source,
            },
        )
        write_manifest(target)
