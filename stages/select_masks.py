"""The maps that an arm's masks follow: part labels, attention ranks, or an empty manifest.

Pretraining depends on this folder alone, so that an arm that uses no parts does not run again when the parts change.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from config.arms import ANOTHER, Arm
from config.names import arguments
from config.params import load_params
from jobs.progress import progress
from jobs.stage import run
from shards.arrays import VERSION, ArrayShards
from shards.files import link_or_copy, whole_folder
from shards.folders import is_intact
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache, MaskCacheWriter
from shards.mask_shards import UNLABELLED, MaskShards
from shards.row_index import SPLITS
from shards.seals import MANIFEST, mend, write_sealed

SOURCES = {"raw": Path("masks/raw"), "learned": Path("masks/learned")}
# Cells of the true parts' grid along a patch of the teacher: masks of a finer grid than the teacher's lose nothing to theirs.
FINER = 2
# Images in memory at a time.
BATCH = 256
# Images of a split, and rows (n,) of them -> labels (n, gh, gw) uint8.
Maps = Callable[[ImageShards, np.ndarray], np.ndarray]


def select(arm: Arm, folder: Path) -> None:
    """Write `folder` (`arms/ARM`) in the format of the mask cache; kind is labels, ranks or none."""
    if arm.maps == "none":
        with whole_folder(folder) as target:
            write_sealed(target / MANIFEST, {"version": VERSION, "header": {"kind": "none"}, "shards": []})
    elif arm.maps == "ranks":
        write_ranks(ArrayShards("attention/all"), folder)
    elif arm.parts == "truth":
        write_labels(*true_parts(), arm, folder)
    elif arm.image == ANOTHER:
        cache = MaskCache(SOURCES[arm.parts])
        write_labels(cache.header, lambda shards, rows: cache.rows(shards.ids[rows]), arm, folder)
    else:
        link_labels(SOURCES[arm.parts], folder)


def link_labels(source: Path, folder: Path) -> None:
    """The mask cache at `source` as it is, without a copy of its bytes where the file system can link."""
    # Linking does not read the files, so damage would show in the copy alone, and again in every new copy.
    if not is_intact(source):
        raise ValueError(f"{source}: missing or damaged; {mend(source)}")
    with whole_folder(folder) as target:
        for file in sorted(source.iterdir()):
            link_or_copy(file, target / file.name)


def write_labels(header: dict[str, Any], maps: Maps, arm: Arm, folder: Path) -> None:
    """A mask cache of `maps` for every image: its own, or that of another of its split."""
    with MaskCacheWriter(folder, header=header) as writer:
        for split in SPLITS:
            shards = ImageShards("data/shards", split)
            own = np.arange(len(shards))
            shown = next_in_a_cycle(len(shards)) if arm.image == ANOTHER else own
            starts = range(0, len(shards), BATCH)
            for start in progress(starts, total=len(starts), label=f"select_masks {folder.name}", unit="batches"):
                some = own[start : start + BATCH]
                writer.add(shards.ids[some], maps(shards, shown[some]))


def next_in_a_cycle(count: int) -> np.ndarray:
    """For each of 0..count-1 another one: its successor in one random cycle through all, the same in every run."""
    order = np.random.default_rng(0).permutation(count)
    successors = np.empty_like(order)
    successors[order] = np.roll(order, -1)
    return successors


def true_parts() -> tuple[dict[str, Any], Maps]:
    """The header and the maps of the data's own masks, on a grid `FINER` times the teacher's: the best that parts can be.

    The majority of a cell's labelled pixels counts. Ground, cells without a label, and images without a mask are background.
    """
    # Torch takes two seconds to import, which the other arms need not wait for.
    from images.dataset import decoded_masks
    from parts.labelling import CELL, majority_labels

    known = ArrayShards("attention/all").header
    grid = tuple(FINER * side for side in known["grid"])
    masks = {split: MaskShards("data/masks", split) for split in SPLITS}
    if not masks["train"].pixels[1:].any():
        raise ValueError(
            "data/masks: no mask of a training image has a part, which parts truth follows; use parts learned"
        )
    labelled, images = len(masks["train"].labelled_ids), len(ImageShards("data/shards", "train"))
    if labelled < images:
        print(f"{labelled} of {images} training images have a mask; the others are masked at random", flush=True)
    parts = masks["train"].num_labels - 1
    header = {"grid": list(grid), "patch_size": known["patch_size"] / FINER, "num_parts": parts, "background": parts}

    def maps(shards: ImageShards, rows: np.ndarray) -> np.ndarray:
        own = masks[shards.split]
        has_mask = np.isin(shards.ids[rows], own.labelled_ids)
        labels = np.full((len(rows), *grid), parts, dtype=np.uint8)
        truth = majority_labels(decoded_masks(own, shards, rows[has_mask], max(grid) * CELL), grid)
        is_part = (truth != 0) & (truth != UNLABELLED)
        labels[has_mask] = np.where(is_part, truth - 1, parts)
        return labels

    return {**header, "kind": "labels", "teacher": "", "part_learner": ""}, maps


def write_ranks(attention: ArrayShards, folder: Path) -> None:
    """Rank of each patch by the class token's attention, averaged over heads: 0 least, 255 most attended."""
    header = {key: attention.header[key] for key in ("grid", "patch_size", "teacher")}
    header |= {"kind": "ranks", "num_parts": 256, "background": None, "part_learner": ""}
    with MaskCacheWriter(folder, header=header) as writer:
        shown = progress(
            range(attention.num_shards), total=attention.num_shards, label=f"select_masks {folder.name}", unit="shards"
        )
        for index in shown:
            ids, arrays = attention.shard(index)
            scores = arrays["cls_attention"].astype(np.float32).mean(axis=1)
            ranks = scores.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
            scaled = ranks * 255 // max(1, scores.shape[1] - 1)
            writer.add(ids, scaled.reshape(len(ids), *header["grid"]).astype(np.uint8))


def main() -> None:
    """`python -m stages.select_masks ARM`."""
    params = load_params()
    (name,) = arguments("ARM")
    select(params.arms.definitions[name], Path("arms") / name)


if __name__ == "__main__":
    run(main)
