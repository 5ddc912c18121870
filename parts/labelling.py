"""One label a patch, from part maps or from pixel masks.

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

    maps: (B, S, gh, gw).
    background: `none` gives every patch a part; `slot` takes the last map, whose index is K, as background; `attention_mass`
        gives label K = S to patches outside `attention_foreground` of `cls_attention` (B, H, L) and `mass`.
    Raises ValueError for another background.
    """
    if background not in BACKGROUNDS:
        raise ValueError(f"background is {background!r}; expected one of {', '.join(BACKGROUNDS)}")
    labels = maps.argmax(dim=1).to(torch.uint8)
    if background == "attention_mass":
        assert cls_attention is not None, "attention_mass needs the class token's attention"
        foreground = attention_foreground(cls_attention, mass).view_as(labels)
        labels = torch.where(foreground, labels, labels.new_tensor(maps.shape[1]))
    return labels


# Side in pixels at which a patch's true label and mean colour are computed.
CELL = 8


def majority_labels(masks: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The most frequent pixel label of every patch: (N, gh, gw) uint8; the smaller id wins a tie.

    masks: (N, h, w) uint8 label ids, 255 for unlabelled pixels, which have no vote; a patch without labelled pixels is 255.
    Raises ValueError unless h and w are divisible by the grid.
    """
    count, height, width = masks.shape
    rows, columns = grid
    if height % rows or width % columns:
        raise ValueError(f"masks of {height} x {width} pixels cannot be cut into a grid of {rows} x {columns}")
    cells = masks.reshape(count, rows, height // rows, columns, width // columns).swapaxes(2, 3)
    cells = cells.reshape(count, rows, columns, height * width // (rows * columns))
    best = np.full((count, rows, columns), UNLABELLED, dtype=np.uint8)
    most = np.zeros((count, rows, columns), dtype=np.int64)
    for label in np.unique(masks[masks != UNLABELLED]):
        votes = (cells == label).sum(axis=3)
        best[votes > most] = label
        most = np.maximum(most, votes)
    return best
