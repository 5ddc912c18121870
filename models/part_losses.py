"""The losses of the part learner, each a scalar per batch.

B images, K parts (maps without the slot), S maps, L patches, C width of the token targets.
`weight` (B, L): 1 for foreground patches, 0 for others, so that parts cover the object. `shares` (B, S or K, L): memberships.
"""

import math

import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6


def memberships(maps: Tensor) -> Tensor:
    """Shares (B, S, L) of the maps (B, S, gh, gw) at each patch; they sum to 1 over S for any scale of the maps."""
    flat = maps.flatten(2)
    return flat / flat.sum(dim=1, keepdim=True).clamp_min(EPS * float(flat.detach().amax()))


def slot_loss(slot: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy of the background slot's share (B, L) with "not foreground": mean over all patches.

    A single foreground is noisy, but the slot learns which patches mostly lie outside it.
    """
    return F.binary_cross_entropy(slot.clamp(EPS, 1 - EPS), 1 - weight)


def token_loss(shares: Tensor, targets: Tensor, weight: Tensor, *, pooling: str = "image") -> Tensor:
    """Squared error of tokens rebuilt from one pooled token a part: mean over weighted patches and C.

    shares: (B, K, L); targets: (B, L, C), tokens of the frozen teacher. A part's token is the weighted mean of its patches,
    and a patch is rebuilt as its mixture of parts: the loss is low if parts gather similar patches.
    pooling: `image` pools a part in each image, `batch` over all images, which makes a part alike in every image.
    """
    covered = shares * weight[:, None]
    sums, amounts = covered @ targets, covered.sum(dim=2, keepdim=True)
    if pooling == "batch":
        sums, amounts = sums.sum(dim=0), amounts.sum(dim=0)
    pooled = sums / (amounts + EPS)
    errors = (shares.transpose(1, 2) @ pooled - targets).square().mean(dim=2)
    return (errors * weight).sum() / weight.sum().clamp_min(EPS)


def usage_loss(shares: Tensor, weight: Tensor) -> Tensor:
    """log K minus the entropy of the parts' shares of the weighted patches: 0 if even, log K if one part has all."""
    used = (shares * weight[:, None]).sum(dim=(0, 2))
    used = used / used.sum().clamp_min(EPS)
    return math.log(len(used)) + (used * used.clamp_min(EPS).log()).sum()


def diversity_loss(maps: Tensor) -> Tensor:
    """Mean cosine between different maps (B, S, gh, gw) of an image: 0 if disjoint, 1 if equal.

    Source: SemMAE section 3.1 (a diversity loss on the blurred maps). Differs: the paper gives no formula; this one is ours.
    """
    count = maps.shape[1]
    directions = F.normalize(maps.flatten(2), dim=2)
    cosines = directions @ directions.transpose(1, 2)
    return (cosines.sum(dim=(1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(dim=1)).mean() / (count * (count - 1))


def perceptual_loss(features: Tensor, targets: Tensor) -> Tensor:
    """Mean cosine distance between the tokens (B, L, D) of a reconstruction and of its image (B, L, D)."""
    return 1 - F.cosine_similarity(features, targets, dim=2).mean()


def equivariance_loss(shares: Tensor, expected: Tensor) -> Tensor:
    """Squared difference of a crop's shares (B, S, L) and the crop of its image's shares: mean over patches, sum over S.

    Source: SCOPS (Hung et al., CVPR 2019) for the constraint. Differs: squared error instead of their divergence.
    """
    return (shares - expected).square().sum(dim=1).mean()
