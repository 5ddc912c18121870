"""Semantic segmentation: heads on the encoder of every arm.

B images, (h, w) pixels, (gh, gw) patch grid, L = gh * gw, D width, C classes, F channels of the head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from models.vit import VisionTransformer, patchify

LEVELS, POOLS, GROUPS = 4, (1, 2, 3, 6), 8


def levels_of(encoder: VisionTransformer, images: torch.Tensor) -> list[torch.Tensor]:
    """Patch tokens as four maps (B, D, gh, gw), one after each quarter of the blocks, the last after the final norm.

    images: (B, 3, h, w), normalised, at the encoder's size.
    """
    depth = len(encoder.blocks)
    ends = [max(1, round(depth * quarter / LEVELS)) for quarter in range(1, LEVELS + 1)]
    *inner, last = encoder.encode_patches(patchify(images, encoder.patch_size), after=ends[:-1])
    kept = {**dict(zip(sorted({*ends[:-1]}), inner, strict=True)), depth: last}
    return [kept[end][:, 1:].transpose(1, 2).unflatten(2, encoder.grid) for end in ends]


class LinearHead(nn.Module):
    """Linear scores (B, C, gh, gw) of every patch from the standardised tokens of the last level."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        scores: torch.Tensor = self.classify(self.norm(levels[-1]))
        return scores


class UperHead(nn.Module):
    """Scores (B, C, 4 gh, 4 gw) from four levels at 4, 2, 1 and 1/2 times the patch grid, added from coarse to fine.

    Source: UPerNet (Xiao et al., ECCV 2018) on a plain ViT as in MAE appendix A.4.
    Differs: group instead of batch normalisation, so that batches may be small; no auxiliary head.
    """

    def __init__(self, width: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.scale = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(width, width, 2, 2), nn.GELU(), nn.ConvTranspose2d(width, width, 2, 2)
                ),
                nn.ConvTranspose2d(width, width, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        )
        self.lateral = nn.ModuleList(_conv(width, channels, 1) for _ in range(LEVELS - 1))
        self.pools = nn.ModuleList(_conv(width, channels, 1) for _ in POOLS)
        self.bottleneck = _conv(width + len(POOLS) * channels, channels, 3)
        self.smooth = nn.ModuleList(_conv(channels, channels, 3) for _ in range(LEVELS - 1))
        self.fuse = _conv(LEVELS * channels, channels, 3)
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        scaled = [scale(level) for scale, level in zip(self.scale, levels, strict=True)]
        coarse = scaled[-1]
        pooled = [
            _resized(conv(F.adaptive_avg_pool2d(coarse, size)), coarse.shape[2:])
            for conv, size in zip(self.pools, POOLS, strict=True)
        ]
        maps = [self.bottleneck(torch.cat([coarse, *pooled], dim=1))]
        for level, lateral in zip(reversed(scaled[:-1]), reversed(self.lateral), strict=True):
            maps.insert(0, lateral(level) + _resized(maps[0], level.shape[2:]))
        maps[:-1] = [smooth(level) for smooth, level in zip(self.smooth, maps[:-1], strict=True)]
        finest = maps[0].shape[2:]
        scores: torch.Tensor = self.classify(self.fuse(torch.cat([_resized(level, finest) for level in maps], dim=1)))
        return scores


class Segmenter(nn.Module):
    """An encoder and a head: scores (B, C, h, w) of normalised images (B, 3, h, w).

    head: `linear` freezes the encoder; `upernet` trains it too. channels: F, of `upernet`.
    """

    def __init__(self, encoder: VisionTransformer, *, head: str, channels: int, num_classes: int) -> None:
        super().__init__()
        self.encoder, self.is_frozen = encoder, head == "linear"
        encoder.requires_grad_(not self.is_frozen)
        encoder.pos_embed.requires_grad_(False)
        width = encoder.width
        self.head = LinearHead(width, num_classes) if self.is_frozen else UperHead(width, channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            levels = levels_of(self.encoder, images)
        return _resized(self.head(levels), images.shape[2:])


def _conv(inputs: int, outputs: int, size: int) -> nn.Sequential:
    groups = GROUPS if outputs % GROUPS == 0 else 1
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False), nn.GroupNorm(groups, outputs), nn.ReLU()
    )


def _resized(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
