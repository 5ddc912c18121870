"""Which patches show the object, without labels: what the parts are spent on.

N images, L patches of a (gh, gw) grid, raster order.
"""

import torch
from torch import Tensor


def attention_foreground(cls_attention: Tensor, mass: float) -> Tensor:
    """True in the smallest set of patches that holds `mass` of the class token's attention: (N, L) bool.

    cls_attention: (N, H, L), averaged over the heads; its sum over the patches counts as 1, so what prefix tokens hold
    is left out. mass: in (0, 1]; 1 marks every patch.
    Source: Caron et al., "DINO", ICCV 2021 (there .6 for showing one head's attention).
    """
    attention = cls_attention.float().mean(dim=1)
    attention = attention / attention.sum(dim=1, keepdim=True)
    if mass >= 1:
        return torch.ones_like(attention, dtype=torch.bool)
    falling, order = attention.sort(dim=1, descending=True, stable=True)
    before = falling.cumsum(dim=1) - falling
    return torch.zeros_like(attention, dtype=torch.bool).scatter(1, order, before < mass)


def border_foreground(clusters: Tensor, grid: tuple[int, int], ratio: float = 1.0) -> Tensor:
    """True where a patch is of a kind that is rarer at the border of images than elsewhere: (N, L) bool.

    clusters: (N, L) integer ids of kinds of patches, the same kinds in every image. ratio: a kind is foreground when the
    share of it that lies at the border is less than `ratio` times the border's share of all patches.
    Objects are photographed in the middle; what fills the rim of many images is what they stand before. Kinds decide,
    not places: a patch at the rim is foreground where it looks like what is mostly inside.
    Source: the boundary prior of saliency detection (Wei et al., ECCV 2012), here over a set instead of an image.
    """
    rows, columns = grid
    rim = torch.ones(rows, columns, dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    rim = rim.flatten()
    kinds = int(clusters.max()) + 1
    everywhere = torch.bincount(clusters.flatten(), minlength=kinds).float()
    at_rim = torch.bincount(clusters[:, rim].flatten(), minlength=kinds).float()
    inner = at_rim / everywhere.clamp_min(1) < ratio * rim.float().mean()
    return inner[clusters]
