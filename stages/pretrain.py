"""Masked autoencoding with the masks of one arm: the same code for SemMAE and every baseline."""

from pathlib import Path

from config.names import arguments
from config.params import Params, load_params, load_runtime
from evaluation.monitoring import Monitor
from images.dataset import WholeImages
from images.stream import TrainingImages
from jobs.cluster.distributed import join
from jobs.cluster.launching import launched
from jobs.fingerprint import fingerprint
from jobs.metrics import write_metrics
from jobs.progress import Meter
from jobs.scratch import Scratch
from jobs.stage import run
from shards.files import whole_folder, write_rows
from shards.image_shards import ImageShards
from training.compute import set_up
from training.encoders import save_model
from training.loop import fitted, train
from training.masks import ArmMasks
from training.pretraining import Pretraining


def main() -> None:
    """`python -m stages.pretrain ARM SEED`."""
    params, runtime = load_params(), load_runtime()
    name, seed = arguments("ARM", "SEED")
    if launched("stages.pretrain", [name, str(seed)], world_size=params.compute.world_size, runtime=runtime):
        return
    job, arm, folder = f"{name}-{seed}", params.arms.definitions[name], Path("arms") / name
    group = params.pretrain
    if arm.mask == "none":
        group = group.model_copy(update={"epochs": 0.0, "start": ""})
    compute = set_up(**params.compute.model_dump())
    with (
        join(compute.world_size, compute.device) as processes,
        Scratch(f"pretrain-{job}", identity(params, name, seed), processes) as scratch,
    ):
        shards = ImageShards("data/shards", "train")
        images = TrainingImages(shards, group.decode_size, window=group.shuffle_images, **runtime.reading)
        masks = ArmMasks(folder, arm, ids=images.ids, ratio=group.mask_ratio, hint_share=group.hint_share)
        label = f"pretrain {job}"
        group = fitted(group, len(images), label=label, processes=processes)
        task = Pretraining(images, masks, group, label=label, seed=seed, compute=compute, processes=processes)
        monitor = None
        if params.monitor.every and task.steps:
            monitor = Monitor(task.model, shards, params.monitor, ratio=group.mask_ratio, compute=compute)
        history = train(task, scratch=scratch, runtime=runtime, monitor=monitor)
        if processes.rank:
            return
        val = WholeImages(
            ImageShards("data/shards", "val"), task.model.image_size[0], workers=runtime.workers, most=group.val_images
        )
        with Meter(len(val), label=f"{label}: validation loss", seconds=runtime.log_seconds) as meter:
            val_loss = task.validation_loss(val, meter.advance)
        with whole_folder(Path("pretrained") / job) as target:
            task.snapshots.write(target)
            save_model(target, task.model, task.config)
        write_rows(f"history/pretrain/{job}.json", history)
        metrics = summary(history, images=task.steps * task.batch_size)
        write_metrics(f"metrics/pretrain/{job}.json", metrics | {"val_loss": val_loss})


def identity(params: Params, name: str, seed: int) -> str:
    """Fingerprint of the job: everything that its result depends on."""
    return fingerprint(
        "stages.pretrain",
        params={
            "seed": seed,
            "arm": params.arms.definitions[name].model_dump(),
            "pretrain": params.pretrain.model_dump(),
            "monitor": params.monitor.model_dump(),
        },
        compute=params.compute,
        inputs=["data/shards", Path("arms") / name],
    )


def summary(history: list[dict[str, float]], *, images: int) -> dict[str, float]:
    """Loss of the last interval and, for arms with part labels, the first and last spread of the hidden ratio."""
    metrics: dict[str, float] = {"images": images}
    if not history:
        return metrics
    metrics["skipped_steps_share"] = sum(row["skipped"] for row in history) / len(history)
    if "loss" in history[-1]:
        metrics["loss"] = history[-1]["loss"]
    if "hidden_ratio_std" in history[0]:
        metrics["hidden_ratio_std_start"] = history[0]["hidden_ratio_std"]
        metrics["hidden_ratio_std_end"] = history[-1]["hidden_ratio_std"]
    return metrics


if __name__ == "__main__":
    run(main)
