"""The attentive probe: a learned query chooses the patches whose mean a linear probe sees.

n images, L patches, D features, H heads, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.linear import curvature, minimise, standardisation

# Images whose tokens are in memory in single precision at once.
ROWS = 256
# Of L-BFGS at each penalty. Two and a half times as many change no accuracy that a test set of 500 images can tell.
ITERATIONS = 20
# Directions in which tokens vary less than this share of the most varied one are noise of half precision.
SMALLEST_VARIANCE = 1e-4


@dataclass(frozen=True)
class AttentiveProbe:
    """A fitted probe: patch tokens (n, L, D) -> classes (n,).

    queries: (H, D). mean, std: (D,) by which pooled tokens are standardised. weights: (C, D + 1), the last column the intercept.
    """

    queries: Tensor
    mean: Tensor
    std: Tensor
    weights: Tensor

    def __call__(self, tokens: Tensor) -> np.ndarray:
        found = [self.scores(some).argmax(dim=1).cpu() for some in tokens.split(ROWS)]
        return torch.cat(found).numpy()

    def scores(self, tokens: Tensor) -> Tensor:
        """(n, C). Each head pools its own D / H features, by a softmax over patches of the whole token times its query."""
        tokens = tokens.to(self.queries.device).float()
        pooled = (tokens @ self.queries.T).softmax(dim=1).transpose(1, 2) @ tokens
        heads = pooled.unflatten(2, (len(self.queries), -1)).diagonal(dim1=1, dim2=2).transpose(1, 2).flatten(1)
        return torch.addmm(self.weights[:, -1], (heads - self.mean) / self.std, self.weights[:, :-1].T)


def fit_attentive_probe(
    tokens: dict[str, Tensor],
    labels: dict[str, np.ndarray],
    *,
    penalties: list[float],
    heads: int,
    device: torch.device | str = "cpu",
    advance: Callable[[int], object] = lambda fits: None,
) -> AttentiveProbe:
    """The probe fitted on train; its penalty has the best val accuracy, the smallest of equals.

    tokens: (n, L, D) of train and val; labels: (n,). The loss is that of `evaluation.linear.fit_logistic` with |Q|^2 added to
    |W|^2, the queries Q in units of the whitened tokens. Queries of zero, where it begins, make it the linear probe of the
    tokens' mean; at each further penalty it begins where the last one ended. advance: called with 0 after each pass over the
    tokens and with 1 after each penalty. Memory beyond these: the tokens of `ROWS` images.
    Source: Psomas et al., "Attention, please! Revisiting attentive probing through the lens of efficiency", arXiv 2506.10178:
    cross-attention with one learned query of H heads, whose key projection is part of the query, and without one of values.
    Differs: L-BFGS on tokens computed once, without augmentation, ended after `ITERATIONS`.
    """
    known = torch.from_numpy(labels["train"]).to(device)
    classes, width = int(labels["train"].max()) + 1, tokens["train"].shape[2]
    means = torch.cat([some.to(device).float().mean(dim=1) for some in tokens["train"].split(ROWS)])
    mean, std = standardisation(means)
    means = (means - mean) / std
    whiten = whitening(tokens["train"], device)
    queries = torch.zeros(heads, width, dtype=torch.float64, device=device)
    weights = torch.zeros(classes, width + 1, dtype=torch.float64, device=device)
    best: tuple[float, AttentiveProbe] | None = None
    for penalty in sorted(penalties):
        queries, weights = _fit(
            tokens["train"], known, means, (queries, weights), (mean, std, whiten), penalty, advance
        )
        probe = AttentiveProbe((queries @ whiten).float(), mean, std, weights.float())
        score = float(np.mean(probe(tokens["val"]) == labels["val"]))
        if best is None or score > best[0]:
            best = score, probe
        advance(1)
    assert best is not None
    return best[1]


def _fit(
    tokens: Tensor,
    known: Tensor,
    means: Tensor,
    start: tuple[Tensor, Tensor],
    units: tuple[Tensor, Tensor, Tensor],
    penalty: float,
    advance: Callable[[int], object],
) -> tuple[Tensor, Tensor]:
    """Queries (H, D) and weights (C, D + 1), float64, of a smaller loss than `start`.

    known: (n,) labels; means: (n, D), standardised; units: mean and std (D,), and the whitening (D, D).
    """
    mean, std, whiten = units
    root, inverse = curvature(means, start[1], penalty)
    queries, scaled = start[0].clone().requires_grad_(), (start[1] @ root).requires_grad_()

    def loss() -> float:
        own = [queries.detach().requires_grad_(), (scaled.detach() @ inverse).requires_grad_()]
        size = own[0].square().sum() + own[1][:, :-1].square().sum()
        shrinking = torch.autograd.grad(size / (2 * penalty), own)
        value = float(size.detach()) / (2 * penalty)
        probe = AttentiveProbe((own[0] @ whiten).float(), mean, std, own[1].float())
        # Of each batch apart, so that only its tokens are in memory.
        seen = [probe.queries.detach().requires_grad_(), probe.weights.detach().requires_grad_()]
        alone = AttentiveProbe(seen[0], mean, std, seen[1])
        for some, truth in zip(tokens.split(ROWS), known.split(ROWS), strict=True):
            part = F.cross_entropy(alone.scores(some), truth, reduction="sum")
            part.backward()
            value += float(part.detach())
        fitting = torch.autograd.grad([probe.queries, probe.weights], own, [each.grad for each in seen])
        queries.grad = (shrinking[0] + fitting[0]) / len(known)
        scaled.grad = (shrinking[1] + fitting[1]) @ inverse / len(known)
        advance(0)
        return value / len(known)

    minimise(loss, [queries, scaled], ITERATIONS)
    return queries.detach(), scaled.detach() @ inverse


def whitening(tokens: Tensor, device: torch.device | str) -> Tensor:
    """(D, D) float64, symmetric, after which the features of tokens (n, L, D) vary alike and tell nothing of each other."""
    width = tokens.shape[2]
    count = tokens.shape[0] * tokens.shape[1]
    centre, products = (torch.zeros(*size, dtype=torch.float64, device=device) for size in ((width,), (width, width)))
    for some in tokens.split(ROWS):
        centre += some.to(device).flatten(0, 1).sum(dim=0, dtype=torch.float64) / count
    for some in tokens.split(ROWS):
        flat = some.to(device).float().flatten(0, 1) - centre.float()
        products += flat.T @ flat
    values, vectors = torch.linalg.eigh(products / count)
    # Tokens that are all alike vary by nothing.
    return vectors * values.clamp_min(max(SMALLEST_VARIANCE * float(values[-1]), 1e-12)).rsqrt() @ vectors.T
