"""The exact linear probe: multinomial logistic regression on frozen features.

N images, D features, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Nats an image: an iteration that gains less is the last one.
TOLERANCE = 1e-6
# Images whose scores are in memory at once.
ROWS = 4096


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe: features (N, D) -> classes (N,). mean, std: (D,) of train; weights: (C, D + 1); penalty: the chosen C."""

    mean: np.ndarray
    std: np.ndarray
    weights: Tensor
    penalty: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return classify(torch.from_numpy((features - self.mean) / self.std), self.weights)


def fit_linear_probe(
    inputs: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    *,
    penalties: list[float],
    max_iterations: int,
    device: torch.device | str = "cpu",
    advance: Callable[[int], object] = lambda fits: None,
) -> LinearProbe:
    """The probe fitted on train; its penalty has the best val accuracy, the smallest of equals.

    inputs: features (N, D) float32 of train and val; labels (N,). Features are standardised by train's statistics, the
    counterpart of the probe's BatchNorm without affine in MAE appendix A.2. advance: called with 1 after each penalty's fit,
    and with 0 in its midst.
    Differs: an exact solver on features computed once, without augmentation, instead of 90 epochs of LARS.
    """
    mean, std = (values.numpy() for values in standardisation(torch.from_numpy(inputs["train"])))
    train, val = (torch.from_numpy((inputs[split] - mean) / std).to(device) for split in ("train", "val"))
    known, classes = torch.from_numpy(labels["train"]).to(device), int(labels["train"].max()) + 1
    weights = torch.zeros(classes, train.shape[1] + 1, dtype=torch.float64, device=device)
    best: tuple[float, float, Tensor] | None = None
    for penalty in sorted(penalties):
        # From the last solution: a weaker penalty moves it a little, and the optimum is the same from anywhere.
        weights = fit_logistic(train, known, weights, penalty=penalty, max_iterations=max_iterations, advance=advance)
        score = float(np.mean(classify(val, weights) == labels["val"]))
        if best is None or score > best[0]:
            best = score, penalty, weights
        advance(1)
    assert best is not None
    return LinearProbe(mean, std, best[2].cpu(), best[1])


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) of features (N, D), in their precision; 1 where a feature is constant."""
    mean, std = features.double().mean(dim=0), features.double().std(dim=0, correction=0)
    return mean.to(features.dtype), torch.where(std == 0, 1, std).to(features.dtype)


def few_of_each(labels: np.ndarray, share: float, draw: torch.Generator) -> np.ndarray:
    """Rows of a share of every class of labels (N,), at least one of each, in rising order."""
    shuffled = torch.randperm(len(labels), generator=draw).numpy()
    kept = []
    for label in np.unique(labels):
        of_class = shuffled[labels[shuffled] == label]
        kept.append(of_class[: max(1, round(share * len(of_class)))])
    return np.sort(np.concatenate(kept))


def classify(features: Tensor, weights: Tensor) -> np.ndarray:
    """Classes (N,) of the largest score."""
    return scores(features, weights).argmax(dim=1).numpy(force=True)


def scores(features: Tensor, weights: Tensor) -> Tensor:
    """(N, C), in the features' precision."""
    weights = weights.to(features.dtype)
    return torch.addmm(weights[:, -1], features, weights[:, :-1].T)


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    start: Tensor,
    *,
    penalty: float,
    max_iterations: int,
    advance: Callable[[int], object] = lambda fits: None,
) -> Tensor:
    """Weights (C, D + 1), the last column the intercept, of the smallest penalised loss, by L-BFGS.

    The loss is scikit-learn's: sum of cross-entropies plus |W|^2 / (2 * penalty), the intercept free. L-BFGS sees the weights in
    units of `curvature`, in which features that say the same do not make it slow.
    features: (N, D), whose precision the scores have, while weights and sums over images are float64; labels: (N,) int64;
    start: (C, D + 1) float64. advance: called with 0 after each pass over them. Memory beyond these: scores of `ROWS` images.
    """
    count = len(features)
    root, inverse = curvature(features, start, penalty)
    scaled = (start @ root).requires_grad_()

    @torch.no_grad()
    def loss() -> float:
        weights = scaled @ inverse
        value, gradient = weights[:, :-1].square().sum() / (2 * penalty), torch.zeros_like(weights)
        gradient[:, :-1] = weights[:, :-1] / penalty
        for some, known in zip(features.split(ROWS), labels.split(ROWS), strict=True):
            logs = scores(some, weights).log_softmax(dim=1)
            value += F.nll_loss(logs, known, reduction="none").sum(dtype=torch.float64)
            errors = logs.exp_()
            errors[torch.arange(len(known), device=known.device), known] -= 1
            gradient[:, :-1] += errors.T @ some
            gradient[:, -1] += errors.sum(dim=0)
        scaled.grad = gradient @ inverse / count
        advance(0)
        return float(value) / count

    minimise(loss, [scaled], max_iterations)
    return scaled.detach() @ inverse


def minimise(loss: Callable[[], float], weights: list[Tensor], max_iterations: int) -> None:
    """Change `weights` in place by L-BFGS until an iteration gains less than `TOLERANCE`; `loss` sets their gradients."""
    torch.optim.LBFGS(
        weights,
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        history_size=10,
        tolerance_grad=0,
        tolerance_change=TOLERANCE,
        line_search_fn="strong_wolfe",
    ).step(loss)


def curvature(features: Tensor, weights: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """The symmetric root (D + 1, D + 1) of the mean loss's Hessian at weights (C, D + 1), a mean over classes, and its inverse.

    The Hessian of one class is the sum over images of p (1 - p) x xT, plus 1 / penalty; p is its probability.
    """
    hessian = weights.new_zeros(2 * weights.shape[1:])
    for some in features.split(ROWS):
        chances = scores(some, weights).softmax(dim=1)
        variance = (chances * (1 - chances)).mean(dim=1, keepdim=True)
        ones = torch.cat([some, some.new_ones(len(some), 1)], dim=1)
        hessian += (variance * ones).T @ ones
    hessian.diagonal()[:-1] += 1 / penalty
    values, vectors = torch.linalg.eigh(hessian / len(features))
    roots = values.clamp_min(1e-12 * float(values[-1])).sqrt()
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
