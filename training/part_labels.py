"""One part label a patch, from encoded images: what a worker needs to label a shard."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.cluster.work import Make
from jobs.fingerprint import digest_of
from parts.attention import extract_all
from shards.image_shards import Shard
from shards.mask_cache import MaskCacheWriter
from training.compute import set_up
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
    def labels(self, images: torch.Tensor) -> np.ndarray:
        """Part labels (B, gh, gw) uint8 of the teacher's input (B, 3, h, w): 0..K-1 parts, K background."""
        found = extract_all(self.teacher.vit, images, token_layer=self.parts.token_layer)
        return self.parts.labels(self.parts.maps(found), found).cpu().numpy()


def label_shard(
    labeller: PartLabeller,
    image_shard: Shard,
    target: str | Path,
    *,
    batch_size: int,
    workers: int,
    prefetch: int,
) -> Iterator[int]:
    """(image shard, teacher and part learner) -> the mask cache `target` of its images, in their order.

    It appears as a whole, with the bytes that follow from what is named here, in whatever order and process the shards of
    a data set are labelled; not from `workers` and `prefetch`. Yields numbers of images as they are done.
    """
    with MaskCacheWriter(target, header=labeller.header) as writer:
        for ids, images in labeller.teacher.batches(image_shard, batch_size, workers=workers, prefetch=prefetch):
            writer.add(ids, labeller.labels(images))
            yield len(ids)


def labelling(
    *, teacher: str, part_learner: str, batch_size: int, compute: dict[str, Any], workers: int, prefetch: int
) -> Make:
    """What a worker runs: `label_shard` with a teacher and a part learner that are loaded once."""
    labeller = PartLabeller(teacher, part_learner, set_up(**compute).device)
    return partial(label_shard, labeller, batch_size=batch_size, workers=workers, prefetch=prefetch)
