"""Semantic segmentation of another data set from one arm's encoder: a linear head, and UPerNet trained end to end."""

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config.names import arguments
from config.params import Params, Runtime, load_params, load_runtime
from evaluation.segmenting import Segmentation, class_iou, encoder_at, floor_metrics, segmentation_metrics
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


def main() -> None:
    """`python -m stages.segment SET ARM SEED`."""
    params, runtime = load_params(), load_runtime()
    name, arm, seed = arguments("SET", "ARM", "SEED")
    job, prepared = f"{arm}-{seed}", Path("prepared/segment") / name
    compute = set_up(**params.compute.model_dump())
    train_set, test_set = labelled(prepared, "train"), labelled(prepared, "test")
    left_out = train_set.left_out + test_set.left_out
    if left_out:
        print(f"segment {name} {job}: {left_out} images of train and test have no mask with a class and are left out")
    metrics: dict[str, float] = {"test_images": len(test_set.shards), "left_out_images": left_out}
    history = []
    with ExitStack() as scratches:
        for head in params.segment.heads:
            confusion, rows = segment(
                name,
                job,
                head,
                train_set,
                test_set,
                scratches,
                params=params,
                runtime=runtime,
                compute=compute,
                seed=seed,
            )
            metrics |= {f"{head}_{measure}": value for measure, value in segmentation_metrics(confusion).items()}
            metrics |= {f"{head}_iou/{label}": value for label, value in class_iou(confusion).items()}
            metrics |= floor_metrics(train_set.masks.pixels, confusion.sum(axis=1))
            history += [{"step": row["step"], f"{head}_loss": row["loss"]} for row in rows]
        write_rows(f"history/segment/{name}/{job}.json", history)
        write_metrics(f"metrics/segment/{name}/{job}.json", metrics)


def labelled(prepared: Path, split: str) -> Labelled:
    """What of a prepared data set can be learned from, or tested on."""
    masks = MaskShards(prepared / "masks", split)
    shards = ImageShards(prepared / "shards", split, only=masks.labelled_ids)
    return Labelled(shards, masks, len(ImageShards(prepared / "shards", split)) - len(shards))


def segment(
    name: str,
    job: str,
    head: str,
    train_set: Labelled,
    test_set: Labelled,
    scratches: ExitStack,
    *,
    params: Params,
    runtime: Runtime,
    compute: Compute,
    seed: int,
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """(C, C) pixels of each true class (row) of the test images that one head calls each class, and its history.

    scratches: keeps what the head has trained until the outs of all heads are written.
    """
    group, folder = params.segment, Path("pretrained") / job
    crop_ratio = params.pretrain.crop_ratio
    identity = fingerprint(
        "stages.segment",
        params={
            "seed": seed,
            "head": head,
            "segment": group.model_dump(exclude={"heads", "mask_values"}),
            "crop_ratio": crop_ratio,
        },
        compute=params.compute,
        inputs=[train_set.shards.folder, train_set.masks.folder, folder],
    )
    scratch = scratches.enter_context(Scratch(f"segment-{name}-{job}-{head}", identity))
    label = f"segment {name} {job} {head}"
    images = TrainingImages(
        train_set.shards, group.image_size, window=params.pretrain.shuffle_images, **runtime.reading
    )
    task = Segmentation(
        images,
        train_set.masks,
        encoder_at(load_encoder(folder), group.image_size),
        fitted(group, len(images), label=label),
        head=head,
        label=label,
        crop_ratio=crop_ratio,
        seed=seed,
        compute=compute,
    )
    history = train(task, scratch=scratch, runtime=runtime)
    test = WholeImages(test_set.shards, group.image_size, workers=runtime.workers)
    with Meter(len(test), label=f"{task.label}: test images", seconds=runtime.log_seconds) as meter:
        return task.confusion(test, test_set.masks, meter.advance), history


if __name__ == "__main__":
    run(main)
