"""One streaming pass of the part learner: one part label a patch of every image, a shard at a time.

It reads the teacher's tokens where `extract_attention` stored them, and asks the teacher for those of other images.
Incremental: masks of an earlier run for the same image shard, teacher, part learner, parameters and code are linked, not
computed again. Full image shards never change, so new images cost the last shard and new shards.
"""

import numpy as np

from config.params import Params, load_params, load_runtime
from jobs.cluster.spreading import Task, Work, make_missing
from jobs.fingerprint import fingerprint
from jobs.kept_shards import KeptShards
from jobs.metrics import write_metrics
from jobs.stage import run
from shards.folders import join_shards
from shards.image_shards import list_shards
from shards.mask_cache import MaskCache
from training.compute import device_type
from training.part_labels import has_tokens, labelling


def main() -> None:
    """`python -m stages.cache_masks`."""
    params, runtime = load_params(), load_runtime()
    device = device_type(params.compute.device, elsewhere=runtime.engine == "ray")
    job, tasks = plan(params, device)
    is_stored = has_tokens("attention", "teacher", "part_learner", images=sum(task.images for task in tasks))
    options = {
        "teacher": "teacher",
        "part_learner": "part_learner",
        "attention": "attention" if is_stored else None,
        "batch_size": params.extract.batch_size,
        "compute": params.compute.model_dump() | {"device": device},
        "workers": runtime.workers,
        "prefetch": runtime.prefetch,
    }
    with KeptShards("cache_masks", job) as kept:
        make_missing(Work(labelling, options), tasks, kept, runtime, threads=params.compute.threads, device=device)
        join_shards([kept.place(task.key) for task in tasks], "masks/learned")
        write_metrics("metrics/cache_masks.json", shares(MaskCache("masks/learned")))


def plan(params: Params, device: str) -> tuple[str, list[Task]]:
    """The fingerprint of what all shards depend on, and a task for every image shard."""
    job = fingerprint(
        "stages.cache_masks",
        params={"batch_size": params.extract.batch_size, "device": device},
        compute=params.compute,
        inputs=["teacher", "part_learner"],
    )
    shards = list_shards("data/shards")
    return job, [Task(shard.name, shard.sha256, shard.rows, {"image_shard": shard}) for shard in shards]


def shares(cache: MaskCache) -> dict[str, float]:
    """Images, and the share of all patches that each part and the background have."""
    parts = cache.header["num_parts"]
    counts = np.zeros(parts + 1, dtype=np.int64)
    for number in range(cache.num_shards):
        counts += np.bincount(cache.shard(number)[1].ravel(), minlength=parts + 1)
    share = counts / counts.sum()
    named = {f"share/part_{part}": float(share[part]) for part in range(parts)}
    return {"images": len(cache), "share/background": float(share[parts]), **named}


if __name__ == "__main__":
    run(main)
