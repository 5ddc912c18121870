"""Fine-tuning of one encoder: classifier, optimiser and step."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from config.evaluation_groups import FinetuneParams
from config.groups import PretrainParams
from config.params import Runtime
from evaluation.predictions import Predictions
from evaluation.supervised import Supervised
from images.augmentation import normalise
from images.dataset import WholeImages
from images.stream import TrainingImages
from jobs.cluster.distributed import ALONE, Processes
from jobs.progress import Meter
from jobs.scratch import Scratch
from models.classifier import Classifier, layer_decay_groups
from models.vit import initialise
from shards.image_shards import ImageShards
from training.compute import Compute
from training.encoders import ENCODER_KEYS, load_encoder, load_weights
from training.loop import fitted, train
from training.optimiser import AdamW
from training.randomness import generator, seed_of


class Finetuning(Supervised):
    """Classifier, optimiser and one step."""

    model: Classifier

    def __init__(
        self,
        images: TrainingImages,
        folder: Path,
        group: FinetuneParams,
        *,
        label: str,
        crop_ratio: tuple,
        seed: int,
        compute: Compute,
        processes: Processes = ALONE,
    ) -> None:
        self.group, rows, classes = group, rows_of(processes, group), len(images.shards.classes)
        _, config = load_weights(folder)
        self.config = {name: config[name] for name in ENCODER_KEYS} | {"num_classes": classes}
        model = Classifier(**self.config, drop_path=group.drop_path)
        initialise(model, generator(seed, "finetune weights"))
        model.start_from(load_encoder(folder))
        model.to(compute.device)
        model.take_share(rows.to(compute.device), batch=group.batch_size)
        self.forward: Callable[[torch.Tensor], torch.Tensor] = torch.compile(model) if compute.compile else model
        peak = group.base_lr * group.batch_size / 256
        groups = layer_decay_groups(model, weight_decay=group.weight_decay, layer_decay=group.layer_decay)
        super().__init__(
            images,
            group,
            model,
            AdamW(groups, lr=peak),
            label=label,
            purpose="finetune",
            size=model.image_size,
            peak=peak,
            clip=group.clip,
            crop_ratio=crop_ratio,
            seed=seed,
            compute=compute,
            processes=processes,
            rows=rows,
        )
        self.mixup = _mixup(group, classes) if group.mixes else None
        self.eraser = _random_erasing(group.random_erasing) if group.random_erasing else None
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(group.ema)) if group.ema else None
        if self.average is not None:
            self.state["average"] = self.average

    def augment(self, number: int, views: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views (n, 3, h, w), erased and mixed in place, and their targets (n, N); the same for any number of processes."""
        if self.eraser is not None:
            erase(views, self.rows, self.eraser, (self.seed, "erasing", number))
        if self.mixup is None:
            return views, F.one_hot(labels, self.config["num_classes"]).float()
        # timm's Mixup draws once a batch from NumPy's global state, and mixes an image with its mirror in the batch.
        np.random.seed(seed_of(self.seed, "mixup", number) % 2**32)
        return self.mixup(views, labels)

    def step(self, number: int) -> dict[str, float | torch.Tensor]:
        """One update on a batch of random crops."""
        views, targets = self.augment(number, *self.inputs(number))
        self.model.train()
        with self.compute.autocast():
            scores = self.forward(views.to(self.compute.device))
        smoothing = self.group.label_smoothing if self.mixup is None else 0.0
        loss = F.cross_entropy(scores.float(), targets.to(self.compute.device), label_smoothing=smoothing)
        metrics = self.descend(number, loss * (len(views) / self.batch_size))
        if self.average is not None:
            self.average.update_parameters(self.model)
        return metrics

    @property
    def tested(self) -> Classifier:
        """The classifier that is tested and saved: the average of the weights if there is one."""
        tested = self.model if self.average is None else self.average.module
        assert isinstance(tested, Classifier)
        return tested

    @torch.no_grad()
    def predict(self, pixels: torch.Tensor) -> torch.Tensor:
        """Classes (B,) of whole images (B, 3, h, w) uint8 at the encoder's size."""
        model = self.tested.eval()
        return model(normalise(pixels.to(self.compute.device).float() / 255)).argmax(dim=1)

    def predict_all(self, images: WholeImages, advance: Callable[[int], object] = lambda images: None) -> np.ndarray:
        """Predicted classes (N,) int64 of all images; the processes share the batches and all return the whole.

        advance: called with the number of images of each batch that this process has done.
        """
        predicted = torch.zeros(len(images), dtype=torch.int64, device=self.compute.device)
        for rows, pixels in images.batches(self.group.batch_size, self.processes.part):
            predicted[torch.from_numpy(rows)] = self.predict(pixels)
            advance(len(rows))
        return self.processes.sum(predicted).cpu().numpy()


def rows_of(processes: Processes, group: FinetuneParams) -> torch.Tensor:
    """This process's rows (n,) int64 of a batch, ascending.

    If images are mixed, a row and its mirror in the batch stay together: no image is decoded by two processes, and these
    rows reversed hold each row's mirror at its place.
    """
    rows = torch.arange(group.batch_size)
    if not group.mixes:
        return rows[processes.part(len(rows))]
    half = rows[processes.part(len(rows) // 2)]
    return torch.cat([half, len(rows) - 1 - half.flip(0)])


def erase(views: torch.Tensor, rows: torch.Tensor, eraser: Callable, key: tuple[int | str, ...]) -> None:
    """Turn a rectangle of some views (n, 3, h, w) into noise, in place; a draw depends on `key` and the view's row alone.

    rows: (n,) places of the views in the whole batch. timm's RandomErasing draws rectangles from Python's global state
    and noise from torch's. torch's is restored, so that it stays the same in all processes that share a batch.
    """
    for row, view in zip(rows.tolist(), views, strict=True):
        seed = seed_of(*key, row)
        random.seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            eraser(view)


def _random_erasing(probability: float) -> Callable:
    from timm.data.random_erasing import RandomErasing

    return RandomErasing(probability, mode="pixel", device="cpu")


def _mixup(group: FinetuneParams, classes: int) -> Callable[..., Any]:
    from timm.data import Mixup

    return Mixup(
        mixup_alpha=group.mixup, cutmix_alpha=group.cutmix, label_smoothing=group.label_smoothing, num_classes=classes
    )


def finetune(
    shards_folder: str,
    pretrained: Path,
    group: FinetuneParams,
    *,
    crop: PretrainParams,
    seed: int,
    compute: Compute,
    runtime: Runtime,
    scratch: Scratch,
    label: str,
) -> tuple[Finetuning, list[dict[str, float]], Predictions]:
    """Train on the split `train` of image shards and predict `test`; returns (task, history, predictions).

    The processes of `scratch` share the work, and each of them returns the whole result.
    """
    shards = ImageShards(shards_folder, "train", labelled=True)
    images = TrainingImages(shards, crop.decode_size, window=crop.shuffle_images, **runtime.reading)
    task = Finetuning(
        images,
        pretrained,
        fitted(group, len(images), label=label, unit=2 if group.mixes else 1, processes=scratch.processes),
        label=label,
        crop_ratio=crop.crop_ratio,
        seed=seed,
        compute=compute,
        processes=scratch.processes,
    )
    history = train(task, scratch=scratch, runtime=runtime)
    test_shards = ImageShards(shards_folder, "test", labelled=True)
    test = WholeImages(test_shards, task.model.image_size[0], workers=runtime.workers)
    with Meter(
        len(test) // scratch.processes.world_size, label=f"{label}: test images", seconds=runtime.log_seconds
    ) as meter:
        predicted = task.predict_all(test, meter.advance)
    return task, history, Predictions(test.shards.ids, test.labels, {"finetune_accuracy": predicted})
