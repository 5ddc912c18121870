"""The masks of an arm: what distinguishes SemMAE from its baselines, and nothing else does."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from images.augmentation import crop_labels
from parts.masking import attention_mask, block_mask, hidden_ratio_std, random_mask, semantic_mask
from parts.schedules import alpha_at
from shards.mask_cache import MaskCache
from shards.seals import MANIFEST, read_sealed

ATTMASK_MODES = {"attmask_high": "high", "attmask_hint": "hint"}
# Ids that are looked up at a time where all are.
CHECKED = 2**20


class ArmMasks:
    """Draws the masks of one arm for a set of images.

    `folder` is the arm's (`arms/ARM`), and has a map for each of `ids` (N,): read when it is asked for, so that the memory is
    that of the index of ids alone. An arm without maps (`kind: none`) reads nothing, so its masks cannot depend on any.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        ids: np.ndarray,
        mask: str,
        schedule: str,
        gamma: float,
        background: str,
        ratio: float,
        hint_share: float,
    ) -> None:
        self.mask, self.schedule, self.gamma, self.background = mask, schedule, gamma, background
        self.ratio, self.hint_share = ratio, hint_share
        self.ids, self.num_parts = ids, 0
        self.cache: MaskCache | None = None
        kind = read_sealed(Path(folder) / MANIFEST)["header"]["kind"]
        if kind != "none":
            self.cache = MaskCache(folder)
            self.num_parts = self.cache.header["num_parts"]
            try:
                for start in range(0, len(ids), CHECKED):
                    self.cache.find(ids[start : start + CHECKED])
            except KeyError as error:
                raise ValueError(
                    f"{folder}: {error.args[0]}; the masks are of other images, run `dvc repro cache_masks`"
                ) from None
        expected = {"parts": "labels", "random": "none", "block": "none", "none": "none"}.get(mask, "ranks")
        if kind != expected:
            raise ValueError(f"{folder}: holds {kind}, mask {mask} needs {expected}; run `dvc repro` again")

    def maps(self, indices: np.ndarray) -> torch.Tensor | None:
        """Maps (B, gh, gw) uint8 of images `indices` (B,), as they are stored; None for an arm without maps."""
        return None if self.cache is None else torch.from_numpy(self.cache.rows(self.ids[indices]))

    def draw(
        self,
        indices: np.ndarray,
        *,
        batch: int | None = None,
        part: slice = slice(None),
        boxes: torch.Tensor,
        flips: torch.Tensor,
        grid: tuple[int, int],
        progress: float,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Mask (n, L) bool, True is hidden, for images `indices` (n,) seen through crops and flips on `grid` (gh, gw).

        They are the `part` of a batch of `batch` images, or all of it: their masks are those of the whole batch, in which
        none depends on the maps of another. `progress` in [0, 1] is the share of training done. Also returns what to log:
        `alpha` and `hidden_ratio_std`, the mean over these images of the standard deviation over parts of the hidden
        ratio, for arms with part labels.
        """
        batch = len(indices) if batch is None else batch
        maps, own = None, self.maps(indices)
        if own is not None:
            maps = own.new_zeros(batch, grid[0] * grid[1])
            maps[part] = crop_labels(own, boxes, flips, grid).flatten(1)
        drawn, logged = draw_mask(
            maps,
            batch=batch,
            part=part,
            grid=grid,
            mask=self.mask,
            schedule=self.schedule,
            gamma=self.gamma,
            background=self.background,
            ratio=self.ratio,
            hint_share=self.hint_share,
            num_parts=self.num_parts,
            progress=progress,
            generator=generator,
        )
        return drawn[part], logged


def draw_mask(
    maps: torch.Tensor | None,
    *,
    batch: int,
    part: slice = slice(None),
    grid: tuple[int, int],
    mask: str,
    schedule: str,
    gamma: float,
    background: str,
    ratio: float,
    hint_share: float,
    num_parts: int,
    progress: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, Mapping[str, float]]:
    """Masks (B, L) of an arm from its maps (B, L): part labels, attention ranks, or None. What to log is of `part`.

    See `ArmMasks.draw`.
    """
    if mask == "random":
        return random_mask(batch, grid[0] * grid[1], ratio=ratio, generator=generator), {}
    if mask == "block":
        return block_mask(batch, grid, ratio=ratio, generator=generator), {}
    assert maps is not None
    if mask in ATTMASK_MODES:
        return attention_mask(
            maps.float(), ratio=ratio, mode=ATTMASK_MODES[mask], hint_share=hint_share, generator=generator
        ), {}
    alpha = alpha_at(progress, schedule=schedule, gamma=gamma)
    drawn = semantic_mask(
        maps, ratio=ratio, alpha=alpha, num_parts=num_parts, background=background, generator=generator
    )
    spread = hidden_ratio_std(drawn[part], maps[part], num_parts).mean()
    return drawn, {"alpha": alpha, "hidden_ratio_std": float(spread)}
