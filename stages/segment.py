"""Semantic segmentation of another data set from one arm's encoder: a linear head, and UPerNet trained end to end."""

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config.names import arguments
from config.params import Params, Runtime, load_params, load_runtime
from evaluation.confusion import class_iou, floor_metrics, segmentation_metrics
from evaluation.segmenting import Segmentation, encoder_at
from images.dataset import WholeImages
from images.stream import TrainingImages
from jobs.fingerprint import fingerprint
from jobs.metrics import write_metrics
from jobs.progress import Meter
from jobs.scratch import Scratch
from jobs.stage import run
from shards.files import write_rows
from shards.image_shards import ImageShards
from shards.mask_shards import MaskShards
from training.compute import Compute, set_up
from training.encoders import load_encoder
from training.loop import fitted, train


class Labelled(NamedTuple):
    """The images of a split that have a mask with a class, and the masks. left_out: the number of the other images."""

    shards: ImageShards
    masks: MaskShards
    left_out: int


class Job(NamedTuple):
    """What the heads on one encoder share. pretrained: its folder."""

    label: str
    pretrained: Path
    seed: int
    train: Labelled
    test: Labelled
    params: Params
    runtime: Runtime


def main() -> None:
    """`python -m stages.segment SET ARM SEED`."""
    params, runtime = load_params(), load_runtime()
    name, arm, seed = arguments("SET", "ARM", "SEED")
    prepared, compute = Path("prepared/segment") / name, set_up(**params.compute.model_dump())
    train_set, test_set = labelled(prepared, "train"), labelled(prepared, "test")
    job = Job(f"{name} {arm}-{seed}", Path("pretrained") / f"{arm}-{seed}", seed, train_set, test_set, params, runtime)
    left_out = train_set.left_out + test_set.left_out
    if left_out:
        print(f"segment {job.label}: {left_out} images of train and test have no mask with a class and are left out")
    metrics: dict[str, float] = {"test_images": len(test_set.shards), "left_out_images": left_out}
    history = []
    # What a head has trained is kept until the outs of all heads are written.
    with ExitStack() as scratches:
        for head in params.segment.heads:
            identity = fingerprint_of(job, head)
            scratch = scratches.enter_context(Scratch(f"segment-{name}-{arm}-{seed}-{head}", identity))
            confusion, rows = segment(job, head, compute, scratch)
            metrics |= {f"{head}_{measure}": value for measure, value in segmentation_metrics(confusion).items()}
            metrics |= {f"{head}_iou/{label}": value for label, value in class_iou(confusion).items()}
            metrics |= floor_metrics(train_set.masks.pixels, confusion.sum(axis=1))
            history += [{"step": row["step"], f"{head}_loss": row["loss"]} for row in rows]
        write_rows(f"history/segment/{name}/{arm}-{seed}.json", history)
        write_metrics(f"metrics/segment/{name}/{arm}-{seed}.json", metrics)


def labelled(prepared: Path, split: str) -> Labelled:
    """What of a prepared data set can be learned from, or tested on."""
    masks = MaskShards(prepared / "masks", split)
    shards = ImageShards(prepared / "shards", split, only=masks.labelled_ids)
    return Labelled(shards, masks, len(ImageShards(prepared / "shards", split)) - len(shards))


def fingerprint_of(job: Job, head: str) -> str:
    """What the training of one head depends on."""
    return fingerprint(
        "stages.segment",
        params={
            "seed": job.seed,
            "head": head,
            "segment": job.params.segment.model_dump(exclude={"heads", "mask_values"}),
            "crop_ratio": job.params.pretrain.crop_ratio,
        },
        compute=job.params.compute,
        inputs=[job.train.shards.folder, job.train.masks.folder, job.pretrained],
    )


def segment(job: Job, head: str, compute: Compute, scratch: Scratch) -> tuple[np.ndarray, list[dict[str, float]]]:
    """(C, C) pixels of each true class (row) of the test images that one head calls each class, and its history."""
    group, runtime, label = job.params.segment, job.runtime, f"segment {job.label} {head}"
    shards, window = job.train.shards, job.params.pretrain.shuffle_images
    images = TrainingImages(shards, group.image_size, window=window, **runtime.reading)
    task = Segmentation(
        images,
        job.train.masks,
        encoder_at(load_encoder(job.pretrained), group.image_size),
        fitted(group, len(images), label=label),
        head=head,
        label=label,
        crop_ratio=job.params.pretrain.crop_ratio,
        seed=job.seed,
        compute=compute,
    )
    history = train(task, scratch=scratch, runtime=runtime)
    test = WholeImages(job.test.shards, group.image_size, workers=runtime.workers)
    with Meter(len(test), label=f"{label}: test images", seconds=runtime.log_seconds) as meter:
        return task.confusion(test, job.test.masks, meter.advance), history


if __name__ == "__main__":
    run(main)
