"""One part label a patch, from encoded images: what a worker needs to label a shard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parts.attention import extract_all
from pipeline.fingerprint import digest_of
from pipeline.image_shards import read_shard
from pipeline.shards import MaskCacheWriter
from training.part_model import FrozenParts
from training.teacher import FrozenTeacher


class PartLabeller:
    """A frozen teacher and a part learner on a device; `header` is that of the caches made with them."""

    def __init__(self, teacher: str | Path, part_learner: str | Path, device: torch.device) -> None:
        self.teacher = FrozenTeacher(teacher, device)
        self.parts = FrozenParts(part_learner, device)
        self.header: dict[str, Any] = self.teacher.header() | {
            "kind": "labels",
            "num_parts": self.parts.num_parts,
            "background": None if self.parts.label_background == "none" else self.parts.num_parts,
            "part_learner": digest_of(part_learner),
        }

    @torch.no_grad()
    def labels(self, images: list[bytes]) -> np.ndarray:
        """Part labels (B, gh, gw) uint8 of B encoded images: 0..K-1 parts, K background."""
        found = extract_all(self.teacher.vit, self.teacher.decode(images), token_layer=self.parts.token_layer)
        return self.parts.labels(self.parts.maps(found), found).cpu().numpy()


def label_shard(
    labeller: PartLabeller,
    image_shard: Path,
    target: Path,
    *,
    batch_size: int,
    advance: Callable[[int], None] = lambda images: None,
) -> None:
    """(image shard, teacher and part learner) -> the mask cache `target` of its images, in their order.

    No batch crosses the border of a shard, so the bytes of `target` depend on nothing but what is named here, in
    whatever order and process the shards of a data set are labelled. `advance` is told of images that are done.
    """
    with MaskCacheWriter(target, header=labeller.header) as writer:
        for ids, images in read_shard(image_shard, batch_size):
            writer.add(ids, labeller.labels(images))
            advance(len(ids))
