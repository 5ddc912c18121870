"""What few seeds allow to say: means, paired differences, Student-t intervals, and the word for a difference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Below this number of seeds no difference is called one, whatever its interval.
ENOUGH_SEEDS = 5

HIGHER, LOWER = "higher", "lower"
DIRECTION_HIGHER, DIRECTION_LOWER = "direction: higher", "direction: lower"
NO_DIFFERENCE, ONE_SEED, BASELINE = "no difference shown", "one seed", "baseline"


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` seeds. Standard error `se` and interval (low, high) are None for one seed."""

    mean: float
    se: float | None
    low: float | None
    high: float | None
    count: int


def estimate(values: Sequence[float], *, confidence: float) -> Estimate:
    """Mean, standard error (unbiased variance) and two-sided Student-t interval over seeds.

    confidence: coverage of the interval, in (0, 1). Raises ValueError without values, or with one that is not finite.
    """
    count = len(values)
    if count == 0 or not all(math.isfinite(value) for value in values):
        raise ValueError(f"values are {list(values)}: expected at least one, all finite")
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, None, None, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    se = math.sqrt(variance / count)
    reach = student_t_quantile((1 + confidence) / 2, count - 1) * se
    return Estimate(mean, se, mean - reach, mean + reach, count)


def paired_difference(values: Sequence[float], baseline: Sequence[float], *, confidence: float) -> Estimate:
    """The estimate of the differences value - baseline, seed by seed: what the seeds share drops out.

    values, baseline: one number a seed, in the same order of seeds.
    """
    assert len(values) == len(baseline), (len(values), len(baseline))
    return estimate([a - b for a, b in zip(values, baseline, strict=True)], confidence=confidence)


def verdict(values: Sequence[float], baseline: Sequence[float], *, confidence: float) -> str:
    """The strongest word that the paired seeds allow for values - baseline.

    From `ENOUGH_SEEDS` seeds on: higher or lower when the interval excludes 0. With fewer at most a direction, when all
    seeds agree in sign. `no difference shown` otherwise, which is not the same as `no difference`.
    """
    if len(values) == 1:
        return ONE_SEED
    differences = [a - b for a, b in zip(values, baseline, strict=True)]
    if len(values) < ENOUGH_SEEDS:
        if all(difference > 0 for difference in differences):
            return DIRECTION_HIGHER
        return DIRECTION_LOWER if all(difference < 0 for difference in differences) else NO_DIFFERENCE
    interval = estimate(differences, confidence=confidence)
    assert interval.low is not None and interval.high is not None
    if interval.low > 0:
        return HIGHER
    return LOWER if interval.high < 0 else NO_DIFFERENCE


def chance_of_agreement(seeds: int) -> int:
    """One in how many: how often `seeds` paired differences agree in sign where there is no difference at all."""
    return 2 ** (seeds - 1)


def bootstrap_interval(values: np.ndarray, *, confidence: float, resamples: int) -> tuple[float, float]:
    """Percentile interval (low, high) of the mean of values (N,) over draws of N of them with replacement.

    It says what the choice of the test images is worth with the trained networks as they are; the same input gives the
    same interval. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    count = len(values)
    draw = np.random.default_rng(0)
    means = [float(values[draw.integers(count, size=count)].mean()) for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def accuracy_error(share: float, images: int) -> float:
    """Standard error of one accuracy, as a share, that comes from the choice of the test images alone (binomial)."""
    return math.sqrt(share * (1 - share) / images)


def student_t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution with `degrees` degrees of freedom."""
    # Half a second of import that the reader of a finished table does not need.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
