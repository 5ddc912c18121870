"""The masks of an arm: what distinguishes SemMAE from its baselines, and nothing else does."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from config.arms import Arm
from images.augmentation import crop_labels
from parts.masking import MASKS, Draw, hidden_foreground, hidden_ratio_std
from parts.schedules import alpha_at
from shards.arrays import VERSION
from shards.mask_cache import MaskCache
from shards.seals import read_manifest

# Ids that are looked up at a time when all of them are checked.
CHECKED = 2**20


class ArmMasks:
    """Draws the masks of one arm for a set of images.

    folder: `arms/ARM`, with a map for each of `ids` (N,). Maps are read when they are needed, so that only the index of the
    ids takes memory. An arm without maps reads none, so its masks cannot depend on any.
    ratio: share of the patches that are hidden. hint_share: see `parts.masking.attention_mask`.
    Raises ValueError where the folder holds maps of another kind or of other images.
    """

    def __init__(self, folder: str | Path, arm: Arm, *, ids: np.ndarray, ratio: float, hint_share: float) -> None:
        self.arm, self.ratio, self.hint_share = arm, ratio, hint_share
        self.ids, self.num_parts = ids, 0
        self.cache: MaskCache | None = None
        kind = read_manifest(Path(folder), VERSION)["header"]["kind"]
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
        if kind != arm.maps:
            raise ValueError(f"{folder}: holds {kind}, mask {arm.mask} needs {arm.maps}; run `dvc repro` again")

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

        batch, part: these images are the rows `part` of a batch of so many, by default all of it. Their masks are those of
        the whole batch, in which no mask depends on the maps of another image. progress: share of the training done, in
        [0, 1]. The second value is what to log: for arms with part labels `alpha`, and means over these images:
        `hidden_ratio_std`, the standard deviation over parts of the hidden ratio, and `hidden_foreground`, the hidden share of
        the patches of all parts. Other arms know of no parts; of random masks it is `ratio` in expectation.
        """
        batch = len(indices) if batch is None else batch
        maps, own = None, self.maps(indices)
        if own is not None:
            maps = own.new_zeros(batch, grid[0] * grid[1])
            maps[part] = crop_labels(own, boxes, flips, grid).flatten(1)
        alpha = self.arm.alpha_max * alpha_at(progress, schedule=self.arm.schedule, gamma=self.arm.gamma)
        drawn = MASKS[self.arm.mask](
            Draw(
                batch=batch,
                grid=grid,
                maps=maps,
                ratio=self.ratio,
                alpha=alpha,
                num_parts=self.num_parts,
                background=self.arm.background,
                keep_hint=self.arm.keep_hint,
                hint_share=self.hint_share,
                generator=generator,
            )
        )[part]
        if self.arm.maps != "labels":
            return drawn, {}
        assert maps is not None
        seen = drawn, maps[part], self.num_parts
        spread, share = hidden_ratio_std(*seen).mean(), hidden_foreground(*seen).mean()
        return drawn, {"alpha": alpha, "hidden_ratio_std": float(spread), "hidden_foreground": float(share)}
