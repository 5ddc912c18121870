"""The teacher: an iBOT ViT trained on the images themselves, or a checkpoint that is loaded and checked."""

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
from jobs.progress import Meter
from jobs.scratch import Scratch
from jobs.stage import run
from models.teachers import architecture_of, build, load_teacher, statistics_of
from models.vit import initialise
from shards.files import write_rows
from shards.image_shards import ImageShards
from training.compute import set_up
from training.distilling import Distillation
from training.loop import fitted, train
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
            with Meter(len(images), label="train_teacher: images", seconds=runtime.log_seconds) as meter:
                images.hold_all(meter.advance)
            recipe = fitted(group, len(images), label=Distillation.label)
            task = Distillation(images, recipe, compute=compute)
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
        tested = [ImageShards("data/shards", split, labelled=True) for split in ("train", "test")]
        if not tested[0].classes:
            write_metrics("metrics/train_teacher.json", {})
            return
        splits = [
            WholeImages(shards, group.image_size, workers=runtime.workers, most=group.knn_images) for shards in tested
        ]
        # timm draws what `initialise` leaves, the positions, from the global generator, whose state depends on the training.
        torch.manual_seed(seed_of(group.seed, "untrained"))
        untrained = build(architecture, group.image_size).eval()
        initialise(untrained, generator(group.seed, "untrained"))
        networks = {"teacher": vit, "untrained": untrained.to(compute.device), "pixels": None}
        correct = {
            name: knn_correct(
                network,
                splits=splits,
                k=group.neighbours,
                mean=mean,
                std=std,
                label=f"train_teacher: kNN, {name}",
                seconds=runtime.log_seconds,
            )
            for name, network in networks.items()
        }
        metrics = knn_metrics(correct.pop("teacher"), correct)
        write_metrics("metrics/train_teacher.json", metrics)
        print(
            f"train_teacher: kNN accuracy on {metrics['test_images']} test images: "
            f"{metrics['knn_accuracy']:.1%}, untrained {metrics['knn_accuracy_untrained']:.1%}, "
            f"pixels {metrics['knn_accuracy_pixels']:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    run(main)
