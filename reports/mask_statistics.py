"""How each arm's masks treat the semantic parts over training, measured on the SAME part labels for every arm.

A mask is a pure function of (arm, seed, progress), so the function that pretraining uses draws it again here. L patches
of the student's grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from config.arms import Arm
from images.augmentation import crop_labels, whole_images
from jobs.progress import Meter
from parts.masking import hidden_foreground, hidden_ratio_std
from reports.gallery import PartMaps, Strip, mask_strips
from reports.samples import Samples
from training.masks import ArmMasks
from training.randomness import generator

POINTS = tuple(point / 10 for point in range(11))
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


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


def hidden_shares(
    masks: ArmMasks, labels: np.ndarray, *, num_parts: int, grid: tuple[int, int], seeds: Sequence[int]
) -> dict[str, list[float]]:
    """At `POINTS` of training `spreads`, `foreground` and `loss`, see `Masks`: means over images and seeds.

    labels: (N, gh, gw) learned part labels of the images that `masks` was opened for, in their order.
    """
    boxes, flips = whole_images(len(labels))
    seen = crop_labels(torch.from_numpy(labels), boxes, flips, grid).flatten(1)
    found: dict[str, list[float]] = {"spreads": [], "foreground": [], "loss": []}
    for progress in POINTS:
        drawn = torch.cat([draw(masks, len(labels), grid=grid, progress=progress, seed=seed)[0] for seed in seeds])
        of_all = drawn, seen.repeat(len(seeds), 1), num_parts
        found["spreads"].append(float(hidden_ratio_std(*of_all).mean()))
        found["foreground"].append(float(hidden_foreground(*of_all).mean()))
        found["loss"].append(float((drawn & (of_all[1] < num_parts)).sum() / drawn.sum()))
    return found


def shown_progress(gamma: float) -> list[float]:
    """The shares of training at which the method's alpha, progress**gamma, is 0, .25, .5, .75 and 1."""
    return [alpha ** (1 / gamma) for alpha in ALPHAS]


@dataclass(frozen=True)
class Masks:
    """The masks of every pretrained arm over training.

    spreads: std over parts of the hidden ratio, a row for each of `POINTS` of training and a column an arm, over `images`
    training images. foreground: the same of the hidden share of the foreground. loss: of the foreground's share of all hidden
    patches, of which the loss is the mean. strips: arm -> an image a row, under the
    masks at `moments` of training. heads: arm -> heads of the strips' columns.
    """

    spreads: pd.DataFrame
    foreground: pd.DataFrame
    loss: pd.DataFrame
    images: int
    moments: Sequence[float]
    heads: Mapping[str, Sequence[str]]
    strips: Mapping[str, Sequence[Strip]]


def masks_over_training(
    folder: Path,
    arms: Mapping[str, Arm],
    ids: np.ndarray,
    labels: PartMaps,
    samples: Samples,
    grid: tuple[int, int],
    seeds: Sequence[int],
    *,
    ratio: float,
    hint: float,
) -> Masks:
    """Masks of the shown images, and statistics over the training images `ids`, whose part labels are `labels`."""
    moments = shown_progress(next((arm.gamma for arm in arms.values() if arm.mask == "parts"), 1.0))
    shares, heads, strips = {}, {}, {}
    meter = Meter(len(arms), label="compare: masks", unit="arms")
    for name, arm in arms.items():
        counted, shown = (
            ArmMasks(folder / name, arm, ids=some, ratio=ratio, hint_share=hint) for some in (ids, samples.ids)
        )
        shares[name] = hidden_shares(counted, labels.labels, num_parts=labels.num_parts, grid=grid, seeds=seeds)
        drawn = [draw(shown, len(samples.ids), grid=grid, progress=at, seed=seeds[0]) for at in moments]
        strips[name] = mask_strips(samples, [mask.unflatten(1, grid).numpy() for mask, _ in drawn], name)
        alphas = [alpha for _, alpha in drawn]
        heads[name] = ["image", *map(_moment, moments, alphas)]
        meter.advance(1)
    meter.close()
    spreads, foreground, loss = (
        pd.DataFrame({arm: found[name] for arm, found in shares.items()}, index=POINTS)
        for name in ("spreads", "foreground", "loss")
    )
    return Masks(spreads, foreground, loss, len(ids), moments, heads, strips)


def _moment(progress: float, alpha: float | None) -> str:
    """Alpha if the arm has a schedule, otherwise the share of training done."""
    return f"{100 * progress:.0f} %" if alpha is None else f"α {alpha:.2g}"
