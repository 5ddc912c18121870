"""One streaming pass of teacher and part learner: one part label a patch of every image."""

import numpy as np
import torch

from models.part_learner import PartLearner
from parts.attention import extract_all
from parts.labelling import label_patches
from pipeline.fingerprint import digest_of
from pipeline.image_shards import ImageShards
from pipeline.params import load_params, load_runtime
from pipeline.shards import MaskCacheWriter
from pipeline.stage import Meter, run, write_metrics
from training.compute import set_up
from training.encoders import load_weights
from training.teacher import SPLITS, FrozenTeacher

# What part_learner/config.json says beside the arguments of PartLearner.
LABELLING_KEYS = ("token_layer", "attention_mass", "label_background")


@torch.no_grad()
def main() -> None:
    """`python -m stages.cache_masks`."""
    params, runtime = load_params(), load_runtime()
    compute = set_up(**params.compute.model_dump())
    teacher = FrozenTeacher("teacher", compute.device)
    state, config = load_weights("part_learner")
    token_layer, mass, background = (config.pop(name) for name in LABELLING_KEYS)
    learner = PartLearner(**config)
    learner.load_state_dict(state)
    learner.to(compute.device).eval()
    parts = config["num_parts"]
    header = teacher.header() | {
        "kind": "labels",
        "num_parts": parts,
        "background": None if background == "none" else parts,
        "part_learner": digest_of("part_learner"),
    }
    counts = np.zeros(parts + 1, dtype=np.int64)
    images_in_all = sum(len(ImageShards("data/shards", split)) for split in SPLITS)
    meter = Meter(images_in_all, label="cache_masks", seconds=runtime.log_seconds)
    with MaskCacheWriter("masks/learned", header=header, shard_rows=params.cache.shard_rows) as writer:
        for ids, images in teacher.batches("data/shards", params.cache.batch_size):
            found = extract_all(teacher.vit, images, token_layer=token_layer)
            maps = learner(found.cls_input, found.patch_tokens)
            labels = (
                label_patches(maps, background=background, cls_attention=found.cls_attention, mass=mass).cpu().numpy()
            )
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
