"""The attentive probe: a learned query chooses the patches whose mean the linear probe sees.

n images, L patches, D features, H heads, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.linear import LinearProbe, curvature, minimise

# Images whose tokens are in memory in single precision at once.
ROWS = 256


@dataclass(frozen=True)
class AttentiveProbe:
    """A fitted probe: patch tokens (n, L, D) -> classes (n,).

    mean, std: (D,) by which tokens are standardised; queries: (H, D); weights: (C, D + 1), the last column the intercept.
    """

    mean: Tensor
    std: Tensor
    queries: Tensor
    weights: Tensor

    def __call__(self, tokens: Tensor) -> np.ndarray:
        found = [self.scores(some).argmax(dim=1).cpu() for some in tokens.split(ROWS)]
        return torch.cat(found).numpy()

    def scores(self, tokens: Tensor) -> Tensor:
        """(n, C). Each head pools its own D / H features, by a softmax over patches of the whole token times its query."""
        tokens = (tokens.to(self.mean.device).float() - self.mean) / self.std
        attention = (tokens @ self.queries.T).softmax(dim=1)
        pooled = torch.einsum("nlh,nlhd->nhd", attention, tokens.unflatten(2, (len(self.queries), -1))).flatten(1)
        return torch.addmm(self.weights[:, -1], pooled, self.weights[:, :-1].T)


def fit_attentive_probe(
    tokens: Tensor,
    labels: np.ndarray,
    start: LinearProbe,
    *,
    heads: int,
    max_iterations: int,
    device: torch.device | str = "cpu",
    advance: Callable[[int], object] = lambda fits: None,
) -> AttentiveProbe:
    """The probe fitted to tokens (n, L, D) and labels (n,) from the linear probe of their means, with that one's penalty.

    L-BFGS on the loss of `evaluation.linear.fit_logistic` with |Q|^2 added to |W|^2. With queries of zero, where it begins, the
    probe is the linear one; so on the images that it is fitted to its loss is never above that one's. advance: called with 0
    after each pass over the tokens and with 1 at the end. Memory beyond these: the tokens of `ROWS` images.
    Source: Psomas et al., "Attention, please! Revisiting attentive probing through the lens of efficiency", arXiv 2506.10178:
    cross-attention with one learned query of H heads, whose key projection is part of the query, and without one of values.
    Differs: an exact solver on tokens computed once, without augmentation.
    """
    mean, std = (torch.from_numpy(values).to(device) for values in (start.mean, start.std))
    known = torch.from_numpy(labels).to(device)
    first = start.weights.to(device)
    means = torch.cat([some.to(device).float().mean(dim=1) for some in tokens.split(ROWS)])
    root, inverse = curvature((means - mean) / std, first, start.penalty)
    scaled = (first @ root).requires_grad_()
    queries = first.new_zeros(heads, tokens.shape[2]).requires_grad_()

    def loss() -> float:
        weights = (scaled.detach() @ inverse).requires_grad_()
        seen = AttentiveProbe(
            mean, std, queries.detach().float().requires_grad_(), weights.detach().float().requires_grad_()
        )
        penalty = (weights[:, :-1].square().sum() + queries.square().sum()) / (2 * start.penalty)
        value = float(penalty.detach())
        for some, truth in zip(tokens.split(ROWS), known.split(ROWS), strict=True):
            part = F.cross_entropy(seen.scores(some), truth, reduction="sum")
            part.backward()
            value += float(part.detach())
        of_weights, of_queries = torch.autograd.grad(penalty, (weights, queries))
        assert seen.weights.grad is not None and seen.queries.grad is not None
        scaled.grad = (of_weights + seen.weights.grad) @ inverse / len(known)
        queries.grad = (of_queries + seen.queries.grad) / len(known)
        advance(0)
        return value / len(known)

    minimise(loss, [scaled, queries], max_iterations)
    advance(1)
    return AttentiveProbe(mean, std, queries.detach().float(), (scaled.detach() @ inverse).float())
