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
from models.teachers import read_config
from parts.attention import Extraction, extract_all, rounded
from parts.labelling import label_patches
from shards.arrays import ArrayShards
from shards.files import read_json
from shards.image_shards import Shard, ids_of
from shards.mask_cache import MaskCacheWriter
from shards.seals import check_files
from training.compute import set_up
from training.encoders import CONFIG, load_weights
from training.teacher import ALL, TOKENS, FrozenTeacher

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
    """A frozen teacher and a part learner on a device. header: of the mask caches made with them.

    attention: a folder with this teacher's tokens of all images, see `has_tokens`, which is then not asked; None asks it.
    """

    def __init__(
        self, teacher: str | Path, part_learner: str | Path, device: torch.device, *, attention: str | Path | None
    ) -> None:
        self.teacher = FrozenTeacher(teacher, device)
        self.stored = None
        if attention is not None:
            self.stored = [ArrayShards(Path(attention) / name) for name in (ALL, TOKENS)]
        self.parts = FrozenParts(part_learner, device)
        self.header: dict[str, Any] = self.teacher.header() | {
            "kind": "labels",
            "num_parts": self.parts.num_parts,
            "background": None if self.parts.label_background == "none" else self.parts.num_parts,
            "part_learner": digest_of(part_learner),
        }

    @torch.no_grad()
    def labels(self, extraction: Extraction) -> np.ndarray:
        """Part labels (B, gh, gw) uint8 of B images: 0..K-1 parts, K background."""
        stored = rounded(extraction)
        return self.parts.labels(self.parts.maps(stored), stored).cpu().numpy()

    def extractions(
        self, image_shard: Shard, batch_size: int, *, workers: int, prefetch: int
    ) -> Iterator[tuple[np.ndarray, Extraction]]:
        """Ids (B,) and what the teacher says of these images, for the batches of one image shard, in its order."""
        if self.stored is None:
            for some, images in self.teacher.batches(image_shard, batch_size, workers=workers, prefetch=prefetch):
                yield some, extract_all(self.teacher.vit, images, token_layer=self.parts.token_layer)
            return
        everything, tokens = self.stored
        columns = {"cls_attention": everything, "cls_token": everything, "cls_input": everything, "tokens": tokens}
        ids = ids_of(image_shard)
        for start in range(0, len(ids), batch_size):
            some = ids[start : start + batch_size]
            rows = (torch.from_numpy(shards.rows(some, name)).float() for name, shards in columns.items())
            yield some, Extraction(*(values.to(self.teacher.device) for values in rows))


def has_tokens(attention: str | Path, teacher: str | Path, part_learner: str | Path, *, images: int) -> bool:
    """Whether `extract_attention` stored the tokens that the part learner takes of all images, and of this teacher."""
    check_files(part_learner, CONFIG)
    stored = ArrayShards(Path(attention) / TOKENS)
    wanted = read_config(teacher)["digest"], read_json(Path(part_learner) / CONFIG)["token_layer"]
    return len(stored) == images and (stored.header["teacher"], stored.header["token_layer"]) == wanted


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

    The cache appears whole. Its bytes follow from shard, teacher, part learner and `batch_size`, that of the extraction, alone:
    not from other shards, from `workers` or from `prefetch`, and not from where the tokens come from, if that is this device.
    """
    with MaskCacheWriter(target, header=labeller.header) as writer:
        for ids, extraction in labeller.extractions(image_shard, batch_size, workers=workers, prefetch=prefetch):
            writer.add(ids, labeller.labels(extraction))
            yield len(ids)


def labelling(
    *,
    teacher: str,
    part_learner: str,
    attention: str | None,
    batch_size: int,
    compute: dict[str, Any],
    workers: int,
    prefetch: int,
) -> Make:
    """`label_shard` with a teacher and a part learner that a worker loads once."""
    labeller = PartLabeller(teacher, part_learner, set_up(**compute).device, attention=attention)
    return partial(label_shard, labeller, batch_size=batch_size, workers=workers, prefetch=prefetch)
