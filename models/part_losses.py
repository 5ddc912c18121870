"""What makes maps parts: the losses of the part learner, each a number per batch.

B images, K parts (maps without the slot), S maps, L patches, C width of the token targets.
`weight` (B, L): how much a patch counts, 1 in the foreground and 0 outside, so that the parts are spent on the object.
"""

import math

import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6


def memberships(maps: Tensor) -> Tensor:
    """Shares (B, S, L) of maps (B, S, gh, gw) at each patch: they sum to 1 over S, however the maps are normalised."""
    flat = maps.flatten(2)
    return flat / flat.sum(dim=1, keepdim=True).clamp_min(EPS * float(flat.detach().amax()))


def slot_loss(slot: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy of the background slot's share (B, L) with "not foreground": mean over all patches.

    The foreground is noisy, a kind of patch is not: the slot learns what mostly lies outside.
    """
    return F.binary_cross_entropy(slot.clamp(EPS, 1 - EPS), 1 - weight)


def token_loss(shares: Tensor, targets: Tensor, weight: Tensor, *, pooling: str = "image") -> Tensor:
    """Squared error of tokens rebuilt from one pooled token a part: mean over weighted patches and C.

    shares: (B, K, L); targets: (B, L, C), tokens of the frozen teacher. A part's token is the weighted mean of the
    patches it covers, and a patch is rebuilt as its mixture of parts: low when parts gather patches that are alike.
    pooling: one token a part and `image`, or one for the whole `batch`: then a part has to be alike in every image.
    """
    covered = shares * weight[:, None]
    sums, amounts = covered @ targets, covered.sum(dim=2, keepdim=True)
    if pooling == "batch":
        sums, amounts = sums.sum(dim=0), amounts.sum(dim=0)
    pooled = sums / (amounts + EPS)
    errors = (shares.transpose(1, 2) @ pooled - targets).square().mean(dim=2)
    return (errors * weight).sum() / weight.sum().clamp_min(EPS)


def usage_loss(shares: Tensor, weight: Tensor) -> Tensor:
    """log K minus the entropy of the parts' use over the batch's weighted patches: 0 when even, log K when one has all."""
    used = (shares * weight[:, None]).sum(dim=(0, 2))
    used = used / used.sum().clamp_min(EPS)
    return math.log(len(used)) + (used * used.clamp_min(EPS).log()).sum()


def diversity_loss(maps: Tensor) -> Tensor:
    """Mean cosine of two different maps of an image (B, S, gh, gw): 0 when disjoint, 1 when equal.

    Source: SemMAE section 3.1 (a diversity loss on the blurred maps); its form is not stated, this is ours.
    """
    count = maps.shape[1]
    directions = F.normalize(maps.flatten(2), dim=2)
    cosines = directions @ directions.transpose(1, 2)
    return (cosines.sum(dim=(1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(dim=1)).mean() / (count * (count - 1))


def perceptual_loss(features: Tensor, targets: Tensor) -> Tensor:
    """Mean cosine distance of a reconstruction's tokens (B, L, D) from the image's own (B, L, D)."""
    return 1 - F.cosine_similarity(features, targets, dim=2).mean()


def equivariance_loss(shares: Tensor, expected: Tensor) -> Tensor:
    """Squared difference of a view's shares (B, S, L) and those that its whole image has there: mean over patches, sum over S.

    Source: SCOPS (Hung et al., CVPR 2019) for the constraint; its form here is ours.
    """
    return (shares - expected).square().sum(dim=1).mean()
