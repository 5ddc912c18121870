"""The teacher: an iBOT ViT trained on the images themselves, or a checkpoint that is loaded and checked."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from images.augmentation import IMAGENET_MEAN, IMAGENET_STD
from images.dataset import DecodedImages
from models.teachers import CONFIG, WEIGHTS, architecture_of, build, load_teacher, statistics_of
from models.vit import initialise
from pipeline.files import sha256_of, whole_folder, write_json, write_rows
from pipeline.fingerprint import fingerprint
from pipeline.image_shards import ImageShards
from pipeline.params import load_params, load_runtime
from pipeline.stage import run, write_metrics
from training.accuracy import accuracy
from training.compute import set_up
from training.distilling import Distillation, whole_image_features
from training.knn import knn_predict
from training.loop import train
from training.randomness import generator
from training.scratch import Scratch


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
        workers = {"workers": runtime.workers, "ram_gib": runtime.ram_gib}
        images = DecodedImages(ImageShards("data/shards", "train"), group.image_size, **workers)
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        if group.source == "train":
            task = Distillation(images, group, compute=compute)
            history = train(
                task.step,
                steps=task.steps,
                state={"model": task.model, "optimizer": task.optimizer, "scaler": task.scaler},
                scratch=scratch,
                seed=group.seed,
                label="train_teacher",
                batch_size=group.batch_size,
                checkpoint_seconds=runtime.checkpoint_seconds,
                log_seconds=runtime.log_seconds,
            )
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
        test = DecodedImages(ImageShards("data/shards", "test"), group.image_size, **workers)
        untrained = build(architecture, group.image_size).eval()
        initialise(untrained, generator(group.seed, "untrained"))
        write_metrics(
            "metrics/train_teacher.json",
            {
                "knn_accuracy": knn(vit, images, test, k=group.neighbours, mean=mean, std=std),
                "knn_accuracy_untrained": knn(
                    untrained.to(compute.device), images, test, k=group.neighbours, mean=mean, std=std
                ),
                "knn_accuracy_pixels": knn(None, images, test, k=group.neighbours, mean=mean, std=std),
                "test_images": len(test),
            },
        )


def write_teacher(
    folder: Path, vit: torch.nn.Module, architecture: dict, *, source: str, mean: tuple, std: tuple
) -> None:
    """Write weights and config.json: what `models.teachers.load_teacher` reads."""
    with whole_folder(folder) as target:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in vit.state_dict().items()}, target / WEIGHTS
        )
        height, width = vit.patch_embed.img_size
        write_json(
            target / CONFIG,
            {
                "architecture": architecture,
                "image_size": height if height == width else [height, width],
                "patch_size": vit.patch_embed.patch_size[0],
                "mean": list(mean),
                "std": list(std),
                "digest": sha256_of(target / WEIGHTS),
                "source": source,
            },
        )


def knn(
    vit: torch.nn.Module | None,
    train_images: DecodedImages,
    test_images: DecodedImages,
    *,
    k: int,
    mean: tuple,
    std: tuple,
) -> float:
    """Test accuracy of weighted kNN on class tokens, or on standardised pixels where there is no network."""
    inputs = []
    for images in (train_images, test_images):
        if vit is None:
            inputs.append(torch.from_numpy(images.pixels).flatten(1).float())
        else:
            scale = {"mean": torch.tensor(mean).view(3, 1, 1), "std": torch.tensor(std).view(3, 1, 1)}
            prepare = lambda batch, s=scale: (batch - s["mean"]) / s["std"]  # noqa: E731
            inputs.append(whole_image_features(vit, images.pixels, batch_size=256, prepare=prepare))
    if vit is None:
        centre, spread = inputs[0].mean(dim=0), inputs[0].std(dim=0) + 1e-6
        inputs = [(values - centre) / spread for values in inputs]
    classes = int(train_images.labels.max()) + 1
    predicted = knn_predict(
        inputs[0], torch.from_numpy(train_images.labels), inputs[1], k=k, temperature=0.07, num_classes=classes
    )
    return accuracy(predicted.numpy(), test_images.labels)


if __name__ == "__main__":
    run(main)
