"""Part maps to one label a patch, and pixel masks to the true label of a patch.

B or N images, S maps (K parts, then a background slot where there is one), (gh, gw) patch grid, L = gh * gw, H heads.
Label ids: 0..K-1 parts, K background.
"""

import numpy as np
import torch
from torch import Tensor

from parts.foreground import attention_foreground

BACKGROUNDS = ("none", "attention_mass", "slot")
UNLABELLED = 255


def label_patches(maps: Tensor, *, background: str, cls_attention: Tensor | None = None, mass: float = 1.0) -> Tensor:
    """The label of the strongest map at every patch: (B, gh, gw) uint8.

    maps: (B, S, gh, gw). background: `none` (every patch has a part), `slot` (the last of the S maps is background, and
    its index is K already), or `attention_mass`: patches outside the foreground that `cls_attention` (B, H, L) marks,
    see `attention_foreground`, are K = S.
    """
    if background not in BACKGROUNDS:
        raise ValueError(f"background is {background!r}; expected one of {', '.join(BACKGROUNDS)}")
    labels = maps.argmax(dim=1).to(torch.uint8)
    if background == "attention_mass":
        assert cls_attention is not None, "attention_mass needs the class token's attention"
        foreground = attention_foreground(cls_attention, mass).view_as(labels)
        labels = torch.where(foreground, labels, labels.new_tensor(maps.shape[1]))
    return labels


def majority_labels(masks: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The most frequent pixel label of every patch: (N, gh, gw) uint8; the smaller id wins a tie.

    masks: (N, h, w) uint8 label ids, 255 where a pixel has none; such pixels have no vote, and a patch of nothing else
    is 255. Raises ValueError unless h and w are divisible by the grid.
    """
    count, height, width = masks.shape
    rows, columns = grid
    if height % rows or width % columns:
        raise ValueError(f"masks of {height} x {width} pixels cannot be cut into a grid of {rows} x {columns}")
    cells = masks.reshape(count, rows, height // rows, columns, width // columns).swapaxes(2, 3)
    cells = cells.reshape(count, rows, columns, -1)
    best = np.full((count, rows, columns), UNLABELLED, dtype=np.uint8)
    most = np.zeros((count, rows, columns), dtype=np.int64)
    for label in np.unique(masks[masks != UNLABELLED]):
        votes = (cells == label).sum(axis=3)
        best[votes > most] = label
        most = np.maximum(most, votes)
    return best
