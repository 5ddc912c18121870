"""Which patches show the object, found without labels.

N images, L patches of a (gh, gw) grid, raster order.
"""

import torch
from torch import Tensor


def attention_foreground(cls_attention: Tensor, mass: float) -> Tensor:
    """(N, L) bool, True for the smallest set of patches that holds `mass` of the class token's attention.

    cls_attention: (N, H, L); averaged over heads and scaled to sum 1 over the patches, which excludes prefix tokens.
    mass: in (0, 1]; 1 marks every patch.
    Source: Caron et al., "DINO", ICCV 2021 (.6 to display one head's attention).
    """
    attention = cls_attention.float().mean(dim=1)
    attention = attention / attention.sum(dim=1, keepdim=True)
    if mass >= 1:
        return torch.ones_like(attention, dtype=torch.bool)
    falling, order = attention.sort(dim=1, descending=True, stable=True)
    before = falling.cumsum(dim=1) - falling
    return torch.zeros_like(attention, dtype=torch.bool).scatter(1, order, before < mass)


def border_foreground(clusters: Tensor, grid: tuple[int, int], ratio: float = 1.0) -> Tensor:
    """(N, L) bool, True for patches of clusters that are rarer at the border of images than elsewhere.

    clusters: (N, L) integer ids, the same clusters in every image. ratio: a cluster is foreground if the share of its patches
    at the border is below `ratio` times the border's share of all patches.
    Photographs show objects in the middle, so clusters that fill the border of many images are background. The cluster decides,
    not the place: a border patch is foreground if its cluster lies mostly inside.
    Source: the boundary prior of saliency detection (Wei et al., ECCV 2012). Differs: over a set instead of one image.
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
