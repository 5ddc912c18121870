"""Training on random crops of labelled images: what fine-tuning, MAE's linear probe and segmentation share."""

import torch
from torch import Tensor, nn

from config.evaluation_groups import FinetuneParams, LinearMaeParams, SegmentParams
from images.augmentation import crop_images, normalise, random_crops, random_flips
from images.stream import Batch, TrainingImages
from jobs.cluster.distributed import ALONE, Processes
from training.compute import Compute
from training.loop import Stateful, update
from training.optimiser import AdamW, set_lr, warmup_cosine
from training.randomness import generator, steps_of

# Parameters that these trainings share with pretraining.
CROP = {"decode_size", "shuffle_images", "crop_ratio"}


class Supervised:
    """Steps on random crops; a step is a pure function of its number and of `state`.

    purpose: names the random streams. size: (h, w) of the crops. peak, clip: largest learning rate and gradient norm.
    rows: this process's rows (n,) int64 of a batch, by default all.
    """

    def __init__(
        self,
        images: TrainingImages,
        recipe: FinetuneParams | LinearMaeParams | SegmentParams,
        model: nn.Module,
        optimizer: AdamW | torch.optim.Optimizer,
        *,
        label: str,
        purpose: str,
        size: tuple[int, int],
        peak: float,
        clip: float,
        crop_ratio: tuple,
        seed: int,
        compute: Compute,
        processes: Processes = ALONE,
        rows: Tensor | None = None,
    ) -> None:
        self.images, self.model, self.optimizer, self.label, self.purpose = images, model, optimizer, label, purpose
        self.batch_size, self.crop_scale, self.crop_ratio = recipe.batch_size, recipe.crop_scale, crop_ratio
        self.size, self.peak, self.clip, self.seed = size, peak, clip, seed
        self.compute, self.processes = compute, processes
        self.rows = torch.arange(recipe.batch_size) if rows is None else rows
        self.steps = steps_of(recipe.epochs, len(images), recipe.batch_size)
        self.warmup = round(self.steps * recipe.warmup_epochs / recipe.epochs)
        self.scaler = compute.scaler()
        self.order = images.order(seed, f"{purpose} order")
        self.inputs = images.ahead(self.prepare, steps=self.steps)
        self.state: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "scaler": self.scaler}

    def prepare(self, number: int) -> tuple[Tensor, Tensor]:
        """This process's views (n, 3, h, w) of step `number`, normalised, and their `targets`.

        Crops and flips are drawn for the whole batch, so they do not depend on the number of processes; only this
        process's images are read and decoded.
        """
        count, rows = self.batch_size, self.rows
        batch = self.images.batch(self.order.rows(number * count, count)[rows.numpy()])
        draw, aspect = generator(self.seed, f"{self.purpose} crops", number), torch.from_numpy(batch.aspect)
        boxes = random_crops(
            count, scale=self.crop_scale, ratio=self.crop_ratio, aspect=aspect, generator=draw, rows=rows
        )
        flips = random_flips(count, draw)[rows]
        return normalise(crop_images(batch.pixels, boxes, flips, self.size)), self.targets(batch, boxes, flips)

    def targets(self, batch: Batch, boxes: Tensor, flips: Tensor) -> Tensor:
        """The classes (n,) int64 of the images."""
        return torch.from_numpy(self.images.labels[batch.rows])

    def descend(self, number: int, loss: Tensor) -> dict[str, float | Tensor]:
        """One update by this process's share of the batch's loss; returns what the loop logs."""
        rate = warmup_cosine(number, steps=self.steps, warmup_steps=self.warmup, peak=self.peak)
        set_lr(self.optimizer, rate)
        total, norm = update([loss], self.optimizer, clip=self.clip, scaler=self.scaler, processes=self.processes)
        return {"loss": total, "lr": rate, "gradient_norm": norm}
