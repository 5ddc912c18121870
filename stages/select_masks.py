"""The maps that an arm's masks follow: a mask cache, attention ranks, or an empty manifest.

Pretraining depends on this folder alone, so that an arm that uses no parts does not run again when the parts change.
"""

from pathlib import Path

import numpy as np

from config.arms import Arm
from config.names import arguments
from config.params import load_params
from jobs.progress import progress
from jobs.stage import run
from shards.arrays import VERSION, ArrayShards
from shards.files import link_or_copy, whole_folder
from shards.folders import is_intact
from shards.mask_cache import MaskCacheWriter
from shards.seals import MANIFEST, mend, write_sealed

SOURCES = {"raw": Path("masks/raw"), "learned": Path("masks/learned")}


def select(arm: Arm, folder: Path) -> None:
    """Write `folder` (`arms/ARM`) in the format of the mask cache; kind is labels, ranks or none."""
    if arm.maps == "labels":
        source = SOURCES[arm.parts]
        # Linking does not read the files, so damage would show in the copy alone, and again in every new copy.
        if not is_intact(source):
            raise ValueError(f"{source}: missing or damaged; {mend(source)}")
        with whole_folder(folder) as target:
            for file in sorted(source.iterdir()):
                link_or_copy(file, target / file.name)
    elif arm.maps == "ranks":
        write_ranks(ArrayShards("attention/all"), folder)
    else:
        with whole_folder(folder) as target:
            write_sealed(target / MANIFEST, {"version": VERSION, "header": {"kind": "none"}, "shards": []})


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
