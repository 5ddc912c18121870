"""The teacher's folder: written, read as the frozen teacher of the streaming stages."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

from images.decoding import decode_square
from images.stream import map_ahead
from models.teachers import CONFIG, WEIGHTS, read_config
from shards.files import sha256_of, whole_folder, write_json
from shards.image_shards import Shard, read_shard
from shards.seals import check_files, write_manifest
from training.encoders import write_tensors

# Folders of what is stored of it: attention and class tokens of all images, and patch tokens of some or all.
ALL, TOKENS = "all", "tokens"


class FrozenTeacher:
    """A teacher folder on a device: `vit`, and images in [0, 1] normalised as it expects them."""

    def __init__(self, folder: str | Path, device: torch.device) -> None:
        check_files(folder, WEIGHTS, CONFIG)
        self.config, self.folder, self.device = read_config(folder), folder, device
        size = self.config["image_size"]
        self.image_size = (size, size) if isinstance(size, int) else tuple(size)
        patch = self.config["patch_size"]
        self.grid = (self.image_size[0] // patch, self.image_size[1] // patch)
        self._mean, self._std = (
            torch.tensor(self.config[name], device=device).view(3, 1, 1) for name in ("mean", "std")
        )

    @cached_property
    def vit(self) -> "VisionTransformer":
        """The network, loaded where it is first needed."""
        from models.teachers import load_teacher

        return load_teacher(self.folder).to(self.device)

    @property
    def width(self) -> int:
        """D, as the file of the weights says."""
        with safe_open(Path(self.folder) / WEIGHTS, "pt") as file:
            width: int = file.get_slice("cls_token").get_shape()[-1]
        return width

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, h, w) in [0, 1] -> the teacher's input, on its device."""
        return (images.to(self.device) - self._mean) / self._std

    def pixels(self, encoded: Sequence[bytes]) -> torch.Tensor:
        """Whole images at the teacher's size: (n, 3, h, w) uint8. encoded: files that can be decoded."""
        return _stacked([self._square(image) for image in encoded])

    def _square(self, encoded: bytes) -> np.ndarray:
        """A whole image (h, w, 3) uint8."""
        height, width = self.image_size
        assert height == width, "whole images are decoded to squares"
        return decode_square(encoded, height)

    def inputs(self, encoded: Sequence[bytes]) -> torch.Tensor:
        """The teacher's input (n, 3, h, w) of whole images."""
        return self.normalise(self.pixels(encoded).float() / 255)

    def tokens(self, images: torch.Tensor, *, token_layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Class token (B, D) and patch tokens (B, L, D) of images (B, 3, h, w) in [0, 1] of any size, with gradients to
        the images.
        """
        resized = F.interpolate(images, self.image_size, mode="bilinear", align_corners=False)
        entering: list[torch.Tensor] = []
        block: Any = self.vit.blocks[-max(1, token_layer)]
        hook = block.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
        try:
            after = self.vit.forward_features(self.normalise(resized))
        finally:
            hook.remove()
        tokens = entering[0] if token_layer else after
        return tokens[:, 0], tokens[:, self.vit.num_prefix_tokens :]

    def header(self) -> dict:
        """The entries about the teacher in the header of every shard made with it."""
        return {"grid": list(self.grid), "patch_size": self.config["patch_size"], "teacher": self.config["digest"]}

    def batches(
        self, image_shard: Shard, batch_size: int, *, workers: int, prefetch: int
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Ids (B,) and the teacher's input (B, 3, h, w) of one image shard, in its order: whole images, resized, normalised.

        `workers` threads decode up to `prefetch` batches ahead of the device; neither changes the batches. No batch holds
        images of two shards, so results depend on this shard alone.
        """

        read = read_shard(image_shard, batch_size)
        images = ((image_id, image) for ids, batch in read for image_id, image in zip(ids, batch, strict=True))
        # Image by image, so that all threads share even a shard of one batch.
        decoded = map_ahead(
            lambda image: (image[0], self._square(image[1])), images, workers=workers, prefetch=prefetch * batch_size
        )
        while batch := list(islice(decoded, batch_size)):
            ids, squares = zip(*batch, strict=True)
            yield np.array(ids), self.normalise(_stacked(squares).float() / 255)


def _stacked(squares: Sequence[np.ndarray]) -> torch.Tensor:
    """Images (h, w, 3) as one tensor (n, 3, h, w)."""
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)


def write_teacher(
    folder: Path, vit: "VisionTransformer", architecture: dict, *, source: str, mean: tuple, std: tuple
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
