"""The linear probe as MAE trains it: batch normalisation without affine, a linear layer, LARS, random crops.

B images, D width, C classes.
"""

import torch
import torch.nn.functional as F
from torch import nn

from config.evaluation_groups import LinearMaeParams
from evaluation.supervised import Supervised
from images.stream import TrainingImages
from models.vit import VisionTransformer
from training.compute import Compute
from training.encoders import features
from training.randomness import generator

# MAE's probe does not clip; `update` takes a bound.
NO_CLIP = float("inf")
INITIAL_STD = 0.01


class LinearMae(Supervised):
    """Frozen encoder, head, optimiser and one step.

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

        self.encoder = encoder
        linear = nn.Linear(encoder.width, len(images.shards.classes))
        with torch.no_grad():
            linear.weight.normal_(std=INITIAL_STD, generator=generator(seed, "linear weights"))
            linear.bias.zero_()
        model = nn.Sequential(nn.BatchNorm1d(encoder.width, affine=False, eps=1e-6), linear).to(compute.device)
        peak = group.base_lr * group.batch_size / 256
        super().__init__(
            images,
            group,
            model,
            Lars(model.parameters(), lr=peak, momentum=0.9, weight_decay=0.0),
            label=label,
            purpose="linear",
            size=encoder.image_size,
            peak=peak,
            clip=NO_CLIP,
            crop_ratio=crop_ratio,
            seed=seed,
            compute=compute,
        )

    def step(self, number: int) -> dict[str, float | torch.Tensor]:
        """One update of the head."""
        views, labels = self.inputs(number)
        self.model.train()
        with torch.no_grad(), self.compute.autocast():
            frozen = self.encoder.encode(views.to(self.compute.device))[:, 1:].mean(dim=1)
        return self.descend(number, F.cross_entropy(self.model(frozen.float()), labels.to(self.compute.device)))

    @torch.no_grad()
    def predict(self, pixels: torch.Tensor) -> torch.Tensor:
        """Classes (B,) of whole images (B, 3, h, w) uint8 at the encoder's size."""
        self.model.eval()
        return self.model(features(self.encoder, pixels)).argmax(dim=1)
