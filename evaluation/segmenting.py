"""Training and judging of one segmentation head: model, optimiser, step and confusion.

B images, C classes, (h, w) pixels.
"""

import numpy as np
import torch
import torch.nn.functional as F

from config.evaluation_groups import SegmentParams
from images.augmentation import crop_images, crop_labels, normalise, random_crops, random_flips
from images.dataset import WholeImages, decoded_masks
from images.decoding import IGNORED_LABEL
from images.stream import TrainingImages
from models.classifier import layer_decay_groups
from models.segmenter import Segmenter, resized_positions
from models.vit import Block, VisionTransformer, initialise
from shards.image_shards import ImageShards
from training.compute import Compute
from training.loop import Stateful, update
from training.optimiser import AdamW, set_lr, warmup_cosine
from training.randomness import generator, steps_of


class Segmentation:
    """Segmenter, optimiser and one step; a step is a pure function of its number and of their state."""

    def __init__(
        self,
        images: TrainingImages,
        encoder: VisionTransformer,
        group: SegmentParams,
        *,
        head: str,
        num_classes: int,
        label: str,
        crop_ratio: tuple,
        seed: int,
        compute: Compute,
    ) -> None:
        self.images, self.group, self.seed, self.compute, self.crop_ratio = images, group, seed, compute, crop_ratio
        self.num_classes, self.size = num_classes, encoder.image_size
        self.label, self.batch_size = label, group.batch_size
        self.model = Segmenter(encoder, head=head, channels=group.head_width, num_classes=num_classes)
        initialise(self.model.head, generator(seed, "segmentation weights"))
        self.model.to(compute.device)
        self.steps = steps_of(group.epochs, len(images), group.batch_size)
        self.warmup = round(self.steps * group.warmup_epochs / group.epochs)
        self.lr = group.linear_lr if self.model.is_frozen else group.lr
        self.optimizer = AdamW(self._groups(), lr=self.lr)
        self.scaler = compute.scaler()
        self.order = images.order(seed, "segmentation order")
        self.inputs = images.ahead(self.prepare, steps=self.steps)
        self.state: dict[str, Stateful] = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}

    def _groups(self) -> list[dict]:
        """The head learns at the full rate, the encoder's blocks at less the farther they are from it."""
        head = {"params": list(self.model.head.parameters()), "weight_decay": self.group.weight_decay, "lr_scale": 1.0}
        if self.model.is_frozen:
            return [head]
        decay = {"weight_decay": self.group.weight_decay, "layer_decay": self.group.layer_decay}
        return [head, *layer_decay_groups(self.model.encoder, **decay)]

    def prepare(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views (B, 3, h, w), normalised, and the classes of their pixels (B, h, w) of step `number`."""
        group = self.group
        batch = self.images.batch(self.order.rows(number * group.batch_size, group.batch_size))
        draw = generator(self.seed, "segmentation crops", number)
        boxes = random_crops(
            group.batch_size,
            scale=group.crop_scale,
            ratio=self.crop_ratio,
            aspect=torch.from_numpy(batch.aspect),
            generator=draw,
        )
        flips = random_flips(group.batch_size, draw)
        masks = torch.from_numpy(decoded_masks(self.images.shards, batch.rows, self.images.size))
        views = normalise(crop_images(batch.pixels, boxes, flips, self.size))
        return views, crop_labels(masks, boxes, flips, self.size).long()

    def step(self, number: int) -> dict[str, float | torch.Tensor]:
        """One update on a batch of random crops; pixels without a class count for nothing."""
        views, labels = self.inputs(number)
        rate = warmup_cosine(number, steps=self.steps, warmup_steps=self.warmup, peak=self.lr)
        set_lr(self.optimizer, rate)
        self.model.train()
        self.model.encoder.train(not self.model.is_frozen)
        with self.compute.autocast():
            scores = self.model(views.to(self.compute.device))
        labels = labels.to(self.compute.device)
        named = (labels != IGNORED_LABEL).sum().clamp(min=1)
        loss = F.cross_entropy(scores.float(), labels, ignore_index=IGNORED_LABEL, reduction="sum") / named
        _, norm = update([loss], self.optimizer, clip=self.group.clip, scaler=self.scaler)
        return {"loss": loss.detach(), "lr": rate, "gradient_norm": norm}

    @torch.no_grad()
    def confusion(self, test: WholeImages) -> np.ndarray:
        """(C, C) pixels of each true class (row) that are called each class (column), over whole test images."""
        self.model.eval()
        counts = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)
        for rows, pixels in test.batches(self.group.batch_size):
            truth = decoded_masks(test.shards, rows, self.size[0])
            said = self.model(normalise(pixels.to(self.compute.device).float() / 255)).argmax(dim=1).cpu().numpy()
            seen = truth != IGNORED_LABEL
            flat = truth[seen].astype(np.int64) * self.num_classes + said[seen]
            counts += np.bincount(flat, minlength=self.num_classes**2).reshape(counts.shape)
        return counts


def class_iou(confusion: np.ndarray) -> dict[int, float]:
    """Intersection over union of every class that the truth holds. confusion: (C, C), rows are the truth."""
    both = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    return {int(name): float(both[name] / union[name]) for name in np.flatnonzero(confusion.sum(axis=1))}


def segmentation_metrics(confusion: np.ndarray) -> dict[str, float]:
    """`miou` over the classes that the truth holds, and `pixel_accuracy`."""
    found = class_iou(confusion)
    return {
        "miou": float(np.mean(list(found.values()))),
        "pixel_accuracy": float(np.trace(confusion) / confusion.sum()),
    }


def encoder_at(encoder: VisionTransformer, image_size: int) -> VisionTransformer:
    """The same encoder for another input size, its positions interpolated."""
    first = encoder.blocks[0]
    assert isinstance(first, Block)
    other = VisionTransformer(
        image_size=image_size,
        patch_size=encoder.patch_size,
        width=encoder.width,
        depth=len(encoder.blocks),
        num_heads=first.attn.num_heads,
    )
    state = encoder.state_dict()
    state["pos_embed"] = resized_positions(state["pos_embed"], encoder.grid, other.grid)
    other.load_state_dict(state)
    return other


def num_classes_of(shards: ImageShards) -> int:
    """Largest label of the masks of the whole data set, `IGNORED_LABEL` aside, and one; ValueError without masks."""
    count = shards.manifest["num_part_labels"]
    if not count:
        raise ValueError(
            f"{shards.folder}: no masks; put a PNG of class ids for every image into masks/ beside images/"
        )
    return int(count)
