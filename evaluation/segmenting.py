"""Training and judging of one segmentation head: model, optimiser, step and confusion.

B images, C classes, (h, w) pixels.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from config.evaluation_groups import SegmentParams
from evaluation.confusion import confusion
from evaluation.supervised import Supervised
from images.augmentation import crop_labels, normalise
from images.dataset import WholeImages, decoded_masks
from images.decoding import IGNORED_LABEL
from images.stream import Batch, TrainingImages
from models.classifier import layer_decay_groups
from models.segmenter import Segmenter
from models.vit import Block, VisionTransformer, initialise, resized_positions
from shards.mask_shards import MaskShards
from training.compute import Compute
from training.optimiser import AdamW
from training.randomness import generator


class Segmentation(Supervised):
    """Segmenter, optimiser and one step."""

    model: Segmenter

    def __init__(
        self,
        images: TrainingImages,
        masks: MaskShards,
        encoder: VisionTransformer,
        group: SegmentParams,
        *,
        head: str,
        label: str,
        crop_ratio: tuple,
        seed: int,
        compute: Compute,
    ) -> None:
        self.masks, self.num_classes = masks, masks.num_labels
        model = Segmenter(encoder, head=head, channels=group.head_width, num_classes=self.num_classes)
        initialise(model.head, generator(seed, "segmentation weights"))
        model.to(compute.device)
        peak = group.linear_lr if model.is_frozen else group.lr
        super().__init__(
            images,
            group,
            model,
            AdamW(_groups(model, group), lr=peak),
            label=label,
            purpose="segmentation",
            size=encoder.image_size,
            peak=peak,
            clip=group.clip,
            crop_ratio=crop_ratio,
            seed=seed,
            compute=compute,
        )

    def targets(self, batch: Batch, boxes: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
        """The classes (B, h, w) int64 of the views' pixels."""
        masks = torch.from_numpy(decoded_masks(self.masks, self.images.shards, batch.rows, self.images.size))
        return crop_labels(masks, boxes, flips, self.size).long()

    def step(self, number: int) -> dict[str, float | torch.Tensor]:
        """One update on a batch of random crops; pixels without a class count for nothing."""
        views, labels = self.inputs(number)
        self.model.train()
        self.model.encoder.train(not self.model.is_frozen)
        with self.compute.autocast():
            scores = self.model(views.to(self.compute.device))
        labels = labels.to(self.compute.device)
        named = (labels != IGNORED_LABEL).sum().clamp(min=1)
        loss = F.cross_entropy(scores.float(), labels, ignore_index=IGNORED_LABEL, reduction="sum") / named
        return self.descend(number, loss)

    @torch.no_grad()
    def confusion(
        self, test: WholeImages, masks: MaskShards, advance: Callable[[int], object] = lambda images: None
    ) -> np.ndarray:
        """(C, C) pixels of each true class (row) that are called each class (column), over whole test images.

        advance: called with the number of images of each batch that is done.
        """
        self.model.eval()
        counts = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)
        for rows, pixels in test.batches(self.batch_size):
            truth = decoded_masks(masks, test.shards, rows, self.size[0])
            predicted = self.model(normalise(pixels.to(self.compute.device).float() / 255)).argmax(dim=1).cpu().numpy()
            seen = truth != IGNORED_LABEL
            counts += confusion(predicted[seen], truth[seen], self.num_classes)
            advance(len(rows))
        return counts


def _groups(model: Segmenter, group: SegmentParams) -> list[dict]:
    """The head learns at the full rate, the encoder's blocks at less the farther they are from it."""
    head = {"params": list(model.head.parameters()), "weight_decay": group.weight_decay, "lr_scale": 1.0}
    if model.is_frozen:
        return [head]
    decay = {"weight_decay": group.weight_decay, "layer_decay": group.layer_decay}
    return [head, *layer_decay_groups(model.encoder, **decay)]


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
