"""RankMe: how many directions features fill, which needs no labels."""

import torch

EPS = 1e-7


def rankme(features: torch.Tensor) -> float:
    """The effective rank of features (N, D): 1 if they lie on a line, at most min(N, D).

    Source: Garrido et al., "RankMe: assessing the downstream performance of pretrained self-supervised representations by
    their rank", ICML 2023, equation 1.
    """
    values = torch.linalg.svdvals(features.float())
    shares = values / values.sum() + EPS
    return float(torch.exp(-(shares * shares.log()).sum()))
