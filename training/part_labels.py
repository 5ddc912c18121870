"""One part label a patch: the trained part learner, and a shard of images labelled by it."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.cluster.work import Make
from jobs.fingerprint import digest_of
from models.part_learner import PartLearner
from parts.attention import Extraction, extract_all
from parts.labelling import label_patches
from shards.image_shards import Shard
from shards.mask_cache import MaskCacheWriter
from training.compute import set_up
from training.encoders import load_weights
from training.teacher import FrozenTeacher

# In part_learner/config.json beside the arguments of PartLearner.
LABELLING_KEYS = ("token_layer", "attention_mass", "label_background")


class FrozenParts:
    """A part learner folder on a device. token_layer: the layer of the teacher whose tokens it takes."""

    def __init__(self, folder: str | Path, device: torch.device) -> None:
        state, config = load_weights(folder)
        self.token_layer, self.attention_mass, self.label_background = (config.pop(name) for name in LABELLING_KEYS)
        self.learner = PartLearner(**config)
        self.learner.load_state_dict(state)
        self.learner.to(device).eval()
        self.num_parts: int = config["num_parts"]
        self.width: int = config["width"]

    @torch.no_grad()
    def maps(self, extraction: Extraction) -> torch.Tensor:
        """Part maps (B, S, gh, gw) from the teacher's tokens of B images."""
        return self.learner(extraction.cls_input, extraction.patch_tokens)

    def labels(self, maps: torch.Tensor, extraction: Extraction) -> torch.Tensor:
        """Labels (B, gh, gw) uint8 of the maps of the same images: 0..K-1 parts, K background."""
        background, mass = self.label_background, self.attention_mass
        return label_patches(maps, background=background, cls_attention=extraction.cls_attention, mass=mass)


class PartLabeller:
    """A frozen teacher and a part learner on a device. header: of the mask caches made with them."""

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
        extraction = extract_all(self.teacher.vit, images, token_layer=self.parts.token_layer)
        return self.parts.labels(self.parts.maps(extraction), extraction).cpu().numpy()


def label_shard(
    labeller: PartLabeller,
    image_shard: Shard,
    target: str | Path,
    *,
    batch_size: int,
    workers: int,
    prefetch: int,
) -> Iterator[int]:
    """Write the mask cache `target` of an image shard, in its order; yields the number of images of each batch that is done.

    The cache appears whole. Its bytes follow from shard, teacher and part learner alone: not from other shards, from
    `workers` or from `prefetch`.
    """
    with MaskCacheWriter(target, header=labeller.header) as writer:
        for ids, images in labeller.teacher.batches(image_shard, batch_size, workers=workers, prefetch=prefetch):
            writer.add(ids, labeller.labels(images))
            yield len(ids)


def labelling(
    *, teacher: str, part_learner: str, batch_size: int, compute: dict[str, Any], workers: int, prefetch: int
) -> Make:
    """`label_shard` with a teacher and a part learner that a worker loads once."""
    labeller = PartLabeller(teacher, part_learner, set_up(**compute).device)
    return partial(label_shard, labeller, batch_size=batch_size, workers=workers, prefetch=prefetch)
