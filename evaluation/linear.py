"""The exact linear probe: multinomial logistic regression on frozen features.

N images, D features, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Of the largest entry of the gradient of the mean loss: below it the accuracy no longer moves.
TOLERANCE = 1e-5
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
    advance: Callable[[int], object] = lambda fits: None,
) -> LinearProbe:
    """The probe fitted on train; its penalty has the best val accuracy, the smallest of equals.

    inputs: features (N, D) of train and val; labels (N,). Features are standardised by train's statistics, the
    counterpart of the probe's BatchNorm without affine in MAE appendix A.2. advance: called with 1 after each penalty's fit,
    and with 0 in its midst.
    Differs: an exact solver on features computed once, without augmentation, instead of 90 epochs of LARS.
    """
    mean, std = inputs["train"].mean(axis=0, dtype=np.float64), inputs["train"].std(axis=0, dtype=np.float64)
    std[std == 0] = 1
    scaled = {split: torch.from_numpy((inputs[split] - mean) / std) for split in ("train", "val")}
    train, classes = torch.from_numpy(labels["train"]), int(labels["train"].max()) + 1
    weights = torch.zeros(classes, scaled["train"].shape[1] + 1, dtype=torch.float64)
    best: tuple[float, float, Tensor] | None = None
    for penalty in sorted(penalties):
        # From the last solution: a weaker penalty moves it a little, and the optimum is the same from anywhere.
        weights = fit_logistic(
            scaled["train"], train, weights, penalty=penalty, max_iterations=max_iterations, advance=advance
        )
        score = float(np.mean(classify(scaled["val"], weights) == labels["val"]))
        if best is None or score > best[0]:
            best = score, penalty, weights
        advance(1)
    assert best is not None
    return LinearProbe(mean, std, best[2], best[1])


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
    return (features @ weights[:, :-1].T + weights[:, -1]).argmax(dim=1).numpy()


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

    The loss is scikit-learn's: sum of cross-entropies plus |W|^2 / (2 * penalty), the intercept free.
    features: (N, D) float64; labels: (N,) int64; start: (C, D + 1). advance: called with 0 after each pass over them.
    Memory beyond these: scores of `ROWS` images.
    """
    # Half a second of import that fine-tuning, which shares this module, need not wait for.
    from scipy.optimize import minimize

    count = len(features)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat).view_as(start)
        value, gradient = 0.0, torch.zeros_like(weights)
        for some, known in zip(features.split(ROWS), labels.split(ROWS), strict=True):
            scores = (some @ weights[:, :-1].T + weights[:, -1]).log_softmax(dim=1)
            errors = scores.exp() - F.one_hot(known, len(start))
            gradient += torch.cat([errors.T @ some, errors.sum(dim=0)[:, None]], dim=1)
            value += float(F.nll_loss(scores, known, reduction="sum"))
        gradient[:, :-1] += weights[:, :-1] / penalty
        value += float(weights[:, :-1].square().sum() / (2 * penalty))
        advance(0)
        return value / count, gradient.flatten().numpy() / count

    found = minimize(
        loss,
        start.flatten().numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iterations, "maxfun": 2 * max_iterations, "gtol": TOLERANCE},
    )
    return torch.from_numpy(found.x).view_as(start)
