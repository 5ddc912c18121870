"""The teacher: an iBOT ViT trained on the images themselves, or a checkpoint that is loaded and checked."""

from functools import partial
from pathlib import Path

import torch

from config.params import load_params, load_runtime
from evaluation.teacher_quality import knn_correct, knn_metrics
from images.augmentation import IMAGENET_MEAN, IMAGENET_STD
from images.dataset import WholeImages
from images.decoding import squeezed
from images.stream import TrainingImages
from jobs.fingerprint import fingerprint
from jobs.metrics import write_metrics
from jobs.scratch import Scratch
from jobs.stage import run
from models.teachers import architecture_of, build, load_teacher, statistics_of
from models.vit import initialise
from shards.files import write_rows
from shards.image_shards import ImageShards
from training.compute import set_up
from training.distilling import Distillation
from training.loop import train
from training.randomness import generator, seed_of
from training.teacher import write_teacher


def main() -> None:
    """`python -m stages.train_teacher`."""
    params, runtime = load_params(), load_runtime()
    group = params.teacher
    job = fingerprint(
        "stages.train_teacher",
        params={"teacher": group.model_dump()},
        compute=params.compute,
        inputs=["data/shards"],
    )
    with Scratch("train_teacher", job) as scratch:
        compute = set_up(**params.compute.model_dump())
        mean: tuple[float, ...] = IMAGENET_MEAN
        std: tuple[float, ...] = IMAGENET_STD
        if group.source == "train":
            shards = ImageShards("data/shards", "train")
            images = TrainingImages(shards, group.image_size, **runtime.reading, decode=squeezed)
            images.hold_all()
            task = Distillation(images, group, compute=compute)
            history = train(task, scratch=scratch, runtime=runtime)
            vit, architecture = task.model.teacher.vit.eval(), task.architecture
        else:
            history = []
            vit = load_teacher(
                group.source,
                architecture=group.architecture,
                image_size=group.image_size,
                branch=group.branch,
                sha256=group.sha256,
            ).to(compute.device)
            named = group.source.startswith(("timm:", "hf-hub:"))
            architecture = architecture_of(group.source) if named else {"timm": group.architecture}
            if named:
                mean, std = statistics_of(vit)
        write_teacher(Path("teacher"), vit, architecture, source=Path(group.source).name, mean=mean, std=std)
        write_rows("history/train_teacher.json", history)
        splits = [
            WholeImages(
                ImageShards("data/shards", split), group.image_size, workers=runtime.workers, most=group.knn_images
            )
            for split in ("train", "test")
        ]
        # timm draws what `initialise` leaves, the positions, from the global generator, whose state depends on the training.
        torch.manual_seed(seed_of(group.seed, "untrained"))
        untrained = build(architecture, group.image_size).eval()
        initialise(untrained, generator(group.seed, "untrained"))
        measure = partial(knn_correct, splits=splits, k=group.neighbours, mean=mean, std=std)
        write_metrics(
            "metrics/train_teacher.json",
            knn_metrics(measure(vit), {"untrained": measure(untrained.to(compute.device)), "pixels": measure(None)}),
        )


if __name__ == "__main__":
    run(main)
