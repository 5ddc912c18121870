"""Class-token attention of every image, and patch tokens of those that part learning trains on, a shard at a time.

Incremental: results of an earlier run for the same image shard, teacher, parameters and code are linked, not computed again.
Full image shards never change, so new images cost the last shard and new shards; rarely, when the training images have grown
by a sixth or more, all shards with other patch tokens (`training.extraction.token_bound`).
"""

from config.params import Params, load_params, load_runtime
from jobs.cluster.spreading import Task, Work, make_missing
from jobs.fingerprint import fingerprint
from jobs.kept_shards import KeptShards
from jobs.stage import run
from shards.files import whole_folder
from shards.folders import join_shards
from shards.image_shards import ImageShards, list_shards
from shards.row_index import SPLITS
from training.compute import device_type
from training.extraction import ALL, RAW, TOKENS, extracting, token_bound

SHARDS = "data/shards"


def main() -> None:
    """`python -m stages.extract_attention`."""
    params, runtime = load_params(), load_runtime()
    device = device_type(params.compute.device, elsewhere=runtime.engine == "ray")
    options = {
        "teacher": "teacher",
        "token_layer": params.extract.token_layer,
        "store": params.data.store,
        "batch_size": params.extract.batch_size,
        "compute": params.compute.model_dump() | {"device": device},
        "workers": runtime.workers,
        "prefetch": runtime.prefetch,
    }
    job, tasks = plan(params, device)
    with KeptShards("extract_attention", job) as kept:
        make_missing(Work(extracting, options), tasks, kept, runtime, threads=params.compute.threads, device=device)
        made = [kept.place(task.key) for task in tasks]
        join_shards([folder / RAW for folder in made], "masks/raw")
        with whole_folder("attention") as target:
            for name in (ALL, TOKENS):
                join_shards([folder / name for folder in made], target / name)


def plan(params: Params, device: str) -> tuple[str, list[Task]]:
    """The fingerprint of what all shards depend on, and a task for every image shard."""
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
    bound = token_bound(ImageShards(SHARDS, "train").ids, params.extract.part_images)
    tasks = [
        Task(shard.name, f"{shard.sha256}-{below:x}", shard.rows, {"image_shard": shard, "tokens_below": below})
        for split in SPLITS
        for below in [bound if split == "train" else 0]
        for shard in list_shards(SHARDS, split)
    ]
    return job, tasks


if __name__ == "__main__":
    run(main)
