"""Class-token attention of every image, and patch tokens of those that part learning trains on, a shard at a time.

Incremental: results of an earlier run for the same image shard, teacher, parameters and code are linked, not computed again.
Full image shards never change, so new images cost the last shard, new shards, and those in which the images for part learning
change.
"""

import numpy as np

from config.params import load_params, load_runtime
from jobs.cluster.spreading import Task, Work, make_missing
from jobs.fingerprint import fingerprint
from jobs.kept_shards import KeptShards
from jobs.stage import run
from shards.files import whole_folder
from shards.folders import join_shards
from shards.image_shards import ImageShards, list_shards
from training.compute import device_type
from training.extraction import ALL, RAW, TOKENS, extracting, extraction_key


def main() -> None:
    """`python -m stages.extract_attention`."""
    params, runtime = load_params(), load_runtime()
    device = device_type(params.compute.device, elsewhere=runtime.engine == "ray")
    job = fingerprint(
        "stages.extract_attention",
        # The images for part learning are part of each shard's own key.
        params={
            "extract": params.extract.model_dump(exclude={"part_images"}),
            "store": params.data.store,
            "device": device,
        },
        compute=params.compute,
        inputs=["teacher"],
    )
    options = {
        "teacher": "teacher",
        "token_layer": params.extract.token_layer,
        "store": params.data.store,
        "batch_size": params.extract.batch_size,
        "compute": params.compute.model_dump() | {"device": device},
        "workers": runtime.workers,
        "prefetch": runtime.prefetch,
    }
    tasks = tasks_of("data/shards", params.extract.part_images)
    with KeptShards("extract_attention", job) as kept:
        make_missing(Work(extracting, options), tasks, kept, runtime, threads=params.compute.threads, device=device)
        made = [kept.place(task.key) for task in tasks]
        join_shards([folder / RAW for folder in made], "masks/raw")
        with whole_folder("attention") as target:
            for name in (ALL, TOKENS):
                join_shards([folder / name for folder in made], target / name)


def tasks_of(folder: str, part_images: int) -> list[Task]:
    """A task for every image shard; part learning wants the `part_images` training images of the smallest ids."""
    wanted = ImageShards(folder, "train").smallest_ids(part_images)
    tasks = []
    for shard in list_shards(folder):
        ids = wanted.get(shard.path, np.empty(0, dtype=np.uint64))
        arguments = {"image_shard": shard, "wanted_ids": ids}
        tasks.append(Task(shard.name, extraction_key(shard, ids), shard.rows, arguments))
    return tasks


if __name__ == "__main__":
    run(main)
