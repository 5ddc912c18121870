"""The linear probe as MAE trains it: batch normalisation without affine, a linear layer, LARS, random crops.

B images, D width, C classes.
"""

import torch
import torch.nn.functional as F
from torch import nn

from config.evaluation_groups import LinearMaeParams
from images.augmentation import crop_images, normalise, random_crops, random_flips
from images.stream import TrainingImages
from models.vit import VisionTransformer
from training.compute import Compute
from training.encoders import features
from training.loop import Stateful, update
from training.optimiser import set_lr, warmup_cosine
from training.randomness import generator, steps_of

# MAE's probe does not clip; `update` takes a bound.
NO_CLIP = float("inf")
INITIAL_STD = 0.01


class LinearMae:
    """Frozen encoder, head, optimiser and one step; a step is a pure function of its number and of their state.

    Source: MAE appendix A.2: momentum .9, no weight decay, no warm restarts, random resized crops and flips.
    Differs: the mean of the patch tokens instead of the class token, as in every other protocol here.
    """

    def __init__(
        self,
        images: TrainingImages,
        encoder: VisionTransformer,
        group: LinearMaeParams,
        *,
        label: str,
        crop_ratio: tuple,
        seed: int,
        compute: Compute,
    ) -> None:
        from timm.optim import Lars

        self.images, self.encoder, self.group, self.seed, self.crop_ratio = images, encoder, group, seed, crop_ratio
        self.compute, self.label, self.batch_size = compute, label, group.batch_size
        linear = nn.Linear(encoder.width, len(images.shards.classes))
        with torch.no_grad():
            linear.weight.normal_(std=INITIAL_STD, generator=generator(seed, "linear weights"))
            linear.bias.zero_()
        self.model = nn.Sequential(nn.BatchNorm1d(encoder.width, affine=False, eps=1e-6), linear).to(compute.device)
        self.steps = steps_of(group.epochs, len(images), group.batch_size)
        self.warmup = round(self.steps * group.warmup_epochs / group.epochs)
        self.peak = group.base_lr * group.batch_size / 256
        self.optimizer = Lars(self.model.parameters(), lr=self.peak, momentum=0.9, weight_decay=0.0)
        self.scaler = compute.scaler()
        self.order = images.order(seed, "linear order")
        self.inputs = images.ahead(self.prepare, steps=self.steps)
        self.state: dict[str, Stateful] = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}

    def prepare(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views (B, 3, h, w), normalised, and classes (B,) of step `number`."""
        group = self.group
        batch = self.images.batch(self.order.rows(number * group.batch_size, group.batch_size))
        draw = generator(self.seed, "linear crops", number)
        boxes = random_crops(
            group.batch_size,
            scale=group.crop_scale,
            ratio=self.crop_ratio,
            aspect=torch.from_numpy(batch.aspect),
            generator=draw,
        )
        views = crop_images(batch.pixels, boxes, random_flips(group.batch_size, draw), self.encoder.image_size)
        return normalise(views), torch.from_numpy(self.images.labels[batch.rows])

    def step(self, number: int) -> dict[str, float | torch.Tensor]:
        """One update of the head."""
        views, labels = self.inputs(number)
        rate = warmup_cosine(number, steps=self.steps, warmup_steps=self.warmup, peak=self.peak)
        set_lr(self.optimizer, rate)
        self.model.train()
        with torch.no_grad(), self.compute.autocast():
            frozen = self.encoder.encode(views.to(self.compute.device))[:, 1:].mean(dim=1)
        loss = F.cross_entropy(self.model(frozen.float()), labels.to(self.compute.device))
        _, norm = update([loss], self.optimizer, clip=NO_CLIP, scaler=self.scaler)
        return {"loss": loss.detach(), "lr": rate, "gradient_norm": norm}

    @torch.no_grad()
    def predict(self, pixels: torch.Tensor) -> torch.Tensor:
        """Classes (B,) of whole images (B, 3, h, w) uint8 at the encoder's size."""
        self.model.eval()
        return self.model(features(self.encoder, pixels)).argmax(dim=1)
