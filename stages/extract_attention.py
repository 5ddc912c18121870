"""Class-token attention of every image, and patch tokens: of all where they fit `extract.token_gib`, else for part learning.

Incremental: results of an earlier run for the same image shard, teacher, parameters and code are linked, not computed again.
Full image shards never change, so new images cost the last shard and new shards; rarely, all shards with other patch tokens:
when the images outgrow that budget, and then when the training images have grown by a sixth or more
(`training.extraction.token_bound`).
"""

from config.groups import ExtractParams
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
from training.extraction import EVERY, RAW, extracting, token_bound, token_bytes
from training.teacher import ALL, TOKENS

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
        # Whose tokens are stored is part of each shard's own key.
        params={
            "extract": params.extract.model_dump(exclude={"part_images", "token_gib"}),
            "store": params.data.store,
            "device": device,
        },
        compute=params.compute,
        inputs=["teacher"],
    )
    bounds = token_bounds(params.extract)
    tasks = [
        Task(
            shard.name,
            f"{shard.sha256}-{bounds[split]:x}",
            shard.rows,
            {"image_shard": shard, "tokens_below": bounds[split]},
        )
        for split in SPLITS
        for shard in list_shards(SHARDS, split)
    ]
    return job, tasks


def token_bounds(group: ExtractParams) -> dict[str, int]:
    """Split -> the bound of the ids of which patch tokens are stored."""
    images = sum(shard.rows for shard in list_shards(SHARDS))
    if images * token_bytes("teacher") <= group.token_gib * 2**30:
        return dict.fromkeys(SPLITS, EVERY)
    return {**dict.fromkeys(SPLITS, 0), "train": token_bound(ImageShards(SHARDS, "train").ids, group.part_images)}


if __name__ == "__main__":
    run(main)
