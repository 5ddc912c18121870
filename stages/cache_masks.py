"""One streaming pass of teacher and part learner: one part label a patch of every image."""

import numpy as np

from parts.attention import extract_all
from pipeline.fingerprint import digest_of
from pipeline.image_shards import ImageShards
from pipeline.params import load_params, load_runtime
from pipeline.shards import MaskCacheWriter
from pipeline.stage import Meter, run, write_metrics
from training.compute import set_up
from training.part_model import FrozenParts
from training.teacher import SPLITS, FrozenTeacher


def main() -> None:
    """`python -m stages.cache_masks`."""
    params, runtime = load_params(), load_runtime()
    compute = set_up(**params.compute.model_dump())
    teacher = FrozenTeacher("teacher", compute.device)
    learned = FrozenParts("part_learner", compute.device)
    parts = learned.num_parts
    header = teacher.header() | {
        "kind": "labels",
        "num_parts": parts,
        "background": None if learned.label_background == "none" else parts,
        "part_learner": digest_of("part_learner"),
    }
    counts = np.zeros(parts + 1, dtype=np.int64)
    images_in_all = sum(len(ImageShards("data/shards", split)) for split in SPLITS)
    meter = Meter(images_in_all, label="cache_masks", seconds=runtime.log_seconds)
    with MaskCacheWriter("masks/learned", header=header, shard_rows=params.cache.shard_rows) as writer:
        for ids, images in teacher.batches("data/shards", params.cache.batch_size):
            found = extract_all(teacher.vit, images, token_layer=learned.token_layer)
            labels = learned.labels(learned.maps(found), found).cpu().numpy()
            counts += np.bincount(labels.ravel(), minlength=parts + 1)
            writer.add(ids, labels)
            meter.advance(len(ids))
    meter.close()
    shares = counts / counts.sum()
    metrics = {f"share/part_{part}": float(shares[part]) for part in range(parts)}
    write_metrics(
        "metrics/cache_masks.json", {"images": images_in_all, "share/background": float(shares[parts]), **metrics}
    )


if __name__ == "__main__":
    run(main)
