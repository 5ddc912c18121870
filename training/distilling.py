"""Training of the iBOT teacher: model, optimiser and step."""

from typing import Any

import numpy as np
import torch

from config.groups import TeacherParams
from images.augmentation import crop_images, jitter_colours, normalise, random_crops, random_flips
from images.stream import TrainingImages
from models.ibot import SelfDistillation
from models.teachers import build
from models.vit import initialise, sincos_positions
from parts.masking import block_mask
from training.compute import Compute
from training.loop import Stateful, update
from training.optimiser import AdamW, cosine_between, decay_groups, set_lr, warmup_cosine
from training.randomness import batch_indices, generator, steps_of

CROP_RATIO = (3 / 4, 4 / 3)
BOTTLENECK = 64
# A healthy teacher stays above .3; constant features are at 0. Below the limit nothing can be learned from it.
COLLAPSED_SPREAD = 0.03


class CollapseError(ValueError):
    """The teacher gives every image the same features."""


class Distillation:
    """Student, teacher, optimiser and one step; a step is a pure function of its number and of their state.

    images: decoded to squares and held, since the order jumps among all of them.
    """

    label = "train_teacher"

    def __init__(self, images: TrainingImages, group: TeacherParams, *, compute: Compute) -> None:
        self.images, self.group, self.compute = images, group, compute
        self.seed, self.batch_size = group.seed, group.batch_size
        self.architecture: dict[str, Any] = {
            "img_size": group.image_size,
            "patch_size": group.patch_size,
            "embed_dim": group.width,
            "depth": group.depth,
            "num_heads": group.num_heads,
            "dynamic_img_size": True,
        }
        weights = generator(group.seed, "weights")
        vit = build(self.architecture)
        initialise(vit, weights)
        side = group.image_size // group.patch_size
        assert vit.pos_embed is not None
        vit.pos_embed.data.copy_(sincos_positions((side, side), group.width))
        self.model = SelfDistillation(
            vit, head_width=group.head_width, bottleneck=BOTTLENECK, prototypes=group.prototypes, generator=weights
        ).to(compute.device)
        self.model.train()
        self.grid = (group.global_size // group.patch_size,) * 2
        self.steps = steps_of(group.epochs, len(images), group.batch_size)
        self.warmup = max(1, round(group.warmup_share * self.steps))
        self.optimizer = AdamW(decay_groups(self.model.student, group.weight_decay), lr=group.lr)
        self.scaler = compute.scaler()
        self.state: dict[str, Stateful] = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}

    def step(self, number: int) -> dict[str, float | torch.Tensor]:
        """One update of the student, then of the teacher. Raises CollapseError when the teacher's features collapse."""
        group, progress = self.group, number / max(1, self.steps - 1)
        indices = batch_indices(len(self.images), group.batch_size, number, group.seed, "order")
        draw = generator(group.seed, "views", number)
        views = self.views(np.tile(indices, 2), group.global_size, group.global_scale, draw)
        local = None
        if group.local_crops:
            local = self.views(np.tile(indices, group.local_crops), group.local_size, group.local_scale, draw)
        low, high = group.teacher_temperature
        rate = warmup_cosine(number, steps=self.steps, warmup_steps=self.warmup, peak=group.lr)
        set_lr(self.optimizer, rate)
        with self.compute.autocast():
            output = self.model(
                views,
                local,
                self.masks(len(views), draw).to(self.compute.device),
                student_temperature=group.student_temperature,
                teacher_temperature=low + (high - low) * min(1.0, number / self.warmup),
            )
        _, norm = update([output.loss], self.optimizer, clip=group.clip, scaler=self.scaler)
        self.model.follow(cosine_between(progress, group.momentum, 1.0))
        if number >= self.warmup and float(output.spread) < COLLAPSED_SPREAD:
            raise CollapseError(
                f"train_teacher: collapsed at step {number}: spread of the features {float(output.spread):.4f}, expected "
                f"above {COLLAPSED_SPREAD}; lower teacher.lr, raise teacher.momentum or teacher.batch_size"
            )
        losses = {name: value.detach() for name, value in output._asdict().items()}
        return {**losses, "lr": rate, "gradient_norm": norm}

    def views(self, indices: np.ndarray, size: int, scale: tuple, draw: torch.Generator) -> torch.Tensor:
        """Random crops (N, 3, size, size) of images `indices` (N,), jittered and normalised."""
        count, batch = len(indices), self.images.batch(indices)
        aspect = torch.from_numpy(batch.aspect)
        boxes = random_crops(count, scale=scale, ratio=CROP_RATIO, aspect=aspect, generator=draw)
        crops = crop_images(batch.pixels, boxes, random_flips(count, draw), (size, size))
        jitter = self.group.colour_jitter
        if jitter:
            crops = jitter_colours(
                crops,
                brightness=jitter,
                contrast=jitter,
                saturation=jitter,
                probability=0.8,
                grey_probability=0.0,
                generator=draw,
            )
        return normalise(crops).to(self.compute.device)

    def masks(self, count: int, draw: torch.Generator) -> torch.Tensor:
        """Blocks hidden from the student (count, L) bool, in a share `mask_probability` of the views."""
        low, high = self.group.mask_ratio
        ratio = low + (high - low) * float(torch.rand((), generator=draw))
        mask = block_mask(count, self.grid, ratio=min(max(ratio, 0.01), 0.99), generator=draw)
        return mask & (torch.rand(count, 1, generator=draw) < self.group.mask_probability)
