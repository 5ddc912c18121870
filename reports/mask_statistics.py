"""How each arm's masks treat the semantic parts over training, measured on the SAME part labels for every arm.

A mask is a pure function of (arm, seed, progress), so it is drawn again here by the very function that pretraining
uses. L patches of the student's grid.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from config.groups import Arm
from images.augmentation import crop_labels, whole_images
from parts.masking import hidden_ratio_std
from training.masks import ArmMasks
from training.randomness import generator

POINTS = tuple(point / 10 for point in range(11))
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def open_masks(folder: Path, *, arm: Arm, ids: np.ndarray, ratio: float, hint_share: float) -> ArmMasks:
    """The masks of an arm for the images `ids` (N,)."""
    return ArmMasks(folder, arm, ids=ids, ratio=ratio, hint_share=hint_share)


def draw(
    masks: ArmMasks, count: int, *, grid: tuple[int, int], progress: float, seed: int
) -> tuple[torch.Tensor, float | None]:
    """Masks (count, L) bool, True is hidden, of the first `count` images uncropped, and alpha where the arm has one."""
    boxes, flips = whole_images(count)
    mask, logged = masks.draw(
        np.arange(count),
        boxes=boxes,
        flips=flips,
        grid=grid,
        progress=progress,
        generator=generator(seed, "report", round(1000 * progress)),
    )
    return mask, logged.get("alpha")


def hidden_spread(
    masks: ArmMasks, labels: np.ndarray, *, num_parts: int, grid: tuple[int, int], seeds: Sequence[int]
) -> list[float]:
    """The standard deviation over parts of the hidden ratio at `POINTS` of training, mean over images and seeds.

    labels: (N, gh, gw) learned part labels of the images that `masks` was opened for, in their order.
    """
    boxes, flips = whole_images(len(labels))
    seen = crop_labels(torch.from_numpy(labels), boxes, flips, grid).flatten(1)
    spreads = []
    for progress in POINTS:
        drawn = [draw(masks, len(labels), grid=grid, progress=progress, seed=seed)[0] for seed in seeds]
        spreads.append(float(torch.stack([hidden_ratio_std(mask, seen, num_parts).mean() for mask in drawn]).mean()))
    return spreads


def shown_progress(gamma: float) -> list[float]:
    """The shares of training at which the method's alpha, progress**gamma, is 0, .25, .5, .75 and 1."""
    return [alpha ** (1 / gamma) for alpha in ALPHAS]
