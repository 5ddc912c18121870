"""Pretraining of one arm: model, optimiser and step. SemMAE and every baseline run this very code."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from config.groups import PretrainParams
from images.augmentation import crop_images, normalise, random_crops, random_flips, snapped, whole_images
from images.dataset import WholeImages
from images.stream import TrainingImages
from jobs.cluster.distributed import ALONE, Processes
from models.checkpoints import read_checkpoint
from models.mae import MaskedAutoencoder, sample_hidden, split_mask
from models.start import start_from
from models.vit import initialise
from parts.masking import random_mask
from training.compute import Compute
from training.loop import Stateful, update
from training.masks import ArmMasks
from training.optimiser import AdamW, decay_groups, set_lr, warmup_cosine
from training.randomness import generator, steps_of
from training.snapshots import Snapshots

SHOWN = 4
ARCHITECTURE = (
    "image_size",
    "patch_size",
    "width",
    "depth",
    "num_heads",
    "decoder_width",
    "decoder_depth",
    "decoder_num_heads",
    "norm_pix_loss",
    "decoder",
    "feature_maps",
)


class Inputs(NamedTuple):
    """This process's part of a step: images (n, 3, h, w) normalised, and values to log.

    visible: (n, V), and predicted: (n, P), indices of patches; the other hidden ones are in neither.
    """

    images: torch.Tensor
    visible: torch.Tensor
    predicted: torch.Tensor
    logged: Mapping[str, float]


class Pretraining:
    """Model, optimiser and one step; a step is a pure function of its number and of their state.

    Source: MAE, section 3 and appendix A.1.
    """

    def __init__(
        self,
        images: TrainingImages,
        masks: ArmMasks,
        group: PretrainParams,
        *,
        label: str,
        seed: int,
        compute: Compute,
        processes: Processes = ALONE,
    ) -> None:
        self.images, self.masks, self.group, self.label, self.seed = images, masks, group, label, seed
        self.compute, self.processes, self.batch_size = compute, processes, group.batch_size
        self.config = {name: getattr(group, name) for name in ARCHITECTURE}
        self.model = MaskedAutoencoder(**self.config)
        initialise(self.model, generator(seed, "weights"))
        if group.start:
            self._start(group.start, group.start_sha256)
        self.model.to(compute.device)
        # Every step has as many visible and predicted patches.
        self.loss = torch.compile(self.model.loss, dynamic=False) if compute.compile else self.model.loss
        self.steps = steps_of(group.epochs, len(images), group.batch_size) if group.epochs else 0
        self.warmup = round(self.steps * group.warmup_epochs / group.epochs) if group.epochs else 0
        self.peak = group.base_lr * group.batch_size / 256
        self.optimizer = AdamW(decay_groups(self.model, group.weight_decay), lr=self.peak, betas=group.betas)
        self.scaler = compute.scaler()
        self.snapshots = self._snapshots()
        self.order = images.order(seed, "order")
        self.inputs = images.ahead(self.prepare, steps=self.steps)
        self.state: dict[str, Stateful] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
            "snapshots": self.snapshots,
        }

    def _snapshots(self) -> Snapshots:
        """Snapshots of the first training images, whole, under masks that are the same for every arm."""
        batch = self.images.batch(np.arange(min(SHOWN, len(self.images))))
        count = len(batch.rows)
        views = normalise(crop_images(batch.pixels, *whole_images(count), self.model.image_size))
        draw = generator("snapshots")
        mask = random_mask(count, self.model.num_patches, ratio=self.group.mask_ratio, generator=draw)
        snapshots = Snapshots(views, mask, steps=self.steps)
        snapshots.take(0, self.model)
        return snapshots

    def _start(self, path: str, sha256: str) -> None:
        try:
            has_decoder = start_from(self.model, read_checkpoint(path, sha256=sha256))
        except ValueError as error:
            raise ValueError(f"pretrain.start {path}: {error}") from None
        print(
            f"starts from {path}"
            + (
                ""
                if has_decoder
                else f", which has no decoder of kind {self.group.decoder}: that starts from random weights"
            )
        )

    def prepare(self, number: int) -> Inputs:
        """Images and masks of step `number`. Order, crops, masks and the choice of predicted patches have their own streams: arms
        of a seed see the same crops, and prefer the same patches.

        Each of several processes draws crops and masks for the whole batch and keeps its part, so the draws do not depend on
        the number of processes. It decodes the images of its part alone: no crop and no mask depends on another image.
        """
        group, count = self.group, self.group.batch_size
        part = self.processes.part(count)
        batch = self.images.batch(self.order.rows(number * count, count)[part])
        draw = generator(self.seed, "crops", number)
        boxes = random_crops(
            count,
            scale=group.crop_scale,
            ratio=group.crop_ratio,
            aspect=torch.from_numpy(batch.aspect),
            generator=draw,
            rows=part,
        )
        boxes = snapped(boxes, torch.from_numpy(batch.sizes))
        flips = (random_flips(count, draw) if group.flip else torch.zeros(count, dtype=torch.bool))[part]
        mask, logged = self.masks.draw(
            batch.rows,
            batch=count,
            part=part,
            boxes=boxes,
            flips=flips,
            grid=self.model.grid,
            progress=number / max(1, self.steps - 1),
            generator=generator(self.seed, "masks", number),
        )
        visible, predicted = split_mask(mask)
        if group.predicted < 1:
            scores = torch.rand(count, self.model.num_patches, generator=generator(self.seed, "predicted", number))
            predicted = sample_hidden(mask, scores[part], group.predicted)
        views = normalise(crop_images(batch.pixels, boxes, flips, self.model.image_size))
        if self.compute.device.type == "cuda":
            # The host does not wait for copies of pinned memory.
            views, visible, predicted = (one.pin_memory() for one in (views, visible, predicted))
        return Inputs(views, visible, predicted, logged)

    def step(self, number: int) -> dict[str, float | torch.Tensor]:
        """One update."""
        inputs = self.inputs(number)
        rate = warmup_cosine(number, steps=self.steps, warmup_steps=self.warmup, peak=self.peak)
        set_lr(self.optimizer, rate)
        losses = self.losses(inputs)
        loss, norm = update(losses, self.optimizer, clip=self.group.clip, scaler=self.scaler, processes=self.processes)
        self.snapshots.take(number + 1, self.model)
        return {"loss": loss, "lr": rate, "gradient_norm": norm, **self._of_all(inputs)}

    def _of_all(self, inputs: Inputs) -> dict[str, float | torch.Tensor]:
        """The values to log as means over the whole batch, from those over this process's part."""
        if self.processes.world_size == 1:
            return dict(inputs.logged)
        share = len(inputs.images) / self.group.batch_size
        values = torch.tensor([value * share for value in inputs.logged.values()], dtype=torch.float64)
        return dict(zip(inputs.logged, self.processes.sum(values).float(), strict=True))

    def losses(self, inputs: Inputs) -> Iterator[torch.Tensor]:
        """Each micro-batch's share of the whole batch's mean loss, the last and smaller one's too.

        All rows of a batch predict equally many patches, so that a share is that of the images.
        """
        size, device = self.compute.micro_batch or len(inputs.images), self.compute.device
        for start in range(0, len(inputs.images), size):
            rows = slice(start, start + size)
            images, visible, predicted = (one[rows].to(device, non_blocking=True) for one in inputs[:3])
            with self.compute.autocast():
                loss, _ = self.loss(images, visible, predicted)
            yield loss * (len(images) / self.group.batch_size)

    @torch.no_grad()
    def validation_loss(self, images: WholeImages, advance: Callable[[int], object]) -> float:
        """Mean loss over whole images under random masks, which are the same for every arm of a seed.

        An arm that trains with random masks meets in it what it was trained for, others do not: it shows overfitting and a
        failed training, and is no measure of features. advance: called with the number of images of each batch that is done.
        """
        draw = generator(self.seed, "validation")
        masks = random_mask(len(images), self.model.num_patches, ratio=self.group.mask_ratio, generator=draw)
        total = 0.0
        for rows, pixels in images.batches(self.compute.micro_batch or self.group.batch_size):
            views, hidden = normalise(pixels.float() / 255), masks[torch.from_numpy(rows)]
            with self.compute.autocast():
                loss, _ = self.model(views.to(self.compute.device), hidden.to(self.compute.device))
            total += float(loss) * len(rows)
            advance(len(rows))
        return total / len(images)
