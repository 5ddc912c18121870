"""One streaming pass of teacher and part learner: one part label a patch of every image, a shard at a time.

Incremental: the masks of an image shard that an earlier run finished with the same teacher, part learner, parameters and
code are linked, not computed. Full image shards never change, so new images cost the last shard and new ones.
"""

import numpy as np

from pipeline.fingerprint import fingerprint
from pipeline.image_shards import list_shards
from pipeline.kept_shards import KeptShards
from pipeline.params import load_params, load_runtime
from pipeline.shards import MaskCache, join_shards
from pipeline.stage import Meter, run, write_metrics
from training.compute import set_up
from training.part_labels import PartLabeller, label_shard


def main() -> None:
    """`python -m stages.cache_masks`."""
    params, runtime = load_params(), load_runtime()
    compute = set_up(**params.compute.model_dump())
    job = fingerprint(
        "stages.cache_masks",
        params={"cache": params.cache.model_dump(), "device": compute.device.type},
        compute=params.compute,
        inputs=["teacher", "part_learner"],
    )
    shards = list_shards("data/shards")
    with KeptShards("cache_masks", job) as kept:
        missing = [shard for shard in shards if not kept.has(shard.sha256)]
        images, left = (sum(shard.rows for shard in some) for some in (shards, missing))
        print(f"cache_masks: {len(shards) - len(missing)} of {len(shards)} shards are reused", flush=True)
        if missing:
            labeller = PartLabeller("teacher", "part_learner", compute.device)
            meter = Meter(images, label="cache_masks", done=images - left, seconds=runtime.log_seconds)
            for shard in missing:
                label_shard(
                    labeller,
                    shard.path,
                    kept.place(shard.sha256),
                    batch_size=params.cache.batch_size,
                    advance=meter.advance,
                )
            meter.close()
        join_shards([kept.place(shard.sha256) for shard in shards], "masks/learned")
        write_metrics("metrics/cache_masks.json", shares(MaskCache("masks/learned")))


def shares(cache: MaskCache) -> dict[str, float]:
    """Images, and the share of all patches that each part and the background have."""
    parts = cache.header["num_parts"]
    counts = np.zeros(parts + 1, dtype=np.int64)
    for number in range(cache.num_shards):
        counts += np.bincount(cache.shard(number)[1].ravel(), minlength=parts + 1)
    found = counts / counts.sum()
    named = {f"share/part_{part}": float(found[part]) for part in range(parts)}
    return {"images": len(cache), "share/background": float(found[parts]), **named}


if __name__ == "__main__":
    run(main)
