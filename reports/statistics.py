"""What a few seeds allow to say: means, Student-t intervals, and the word for a paired difference."""

import math

import numpy as np
import pandas as pd

# With fewer seeds no difference is called higher or lower, whatever its interval.
ENOUGH_SEEDS = 5
# A mean difference worth no more test images than this is not called one, however well the seeds agree.
TOO_FEW_IMAGES = 1.5

HIGHER, LOWER = "higher", "lower"
DIRECTION_HIGHER, DIRECTION_LOWER = "direction: higher", "direction: lower"
NO_DIFFERENCE, ONE_SEED, BASELINE = "no difference shown", "one seed", "baseline"


def estimate(values: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """`mean`, standard error `se`, and the two-sided Student-t interval `low` to `high` of every row of `values`.

    values: a column a seed. confidence: coverage of the interval, in (0, 1). With one seed only the mean is a number, the
    rest is NaN. Raises ValueError without values, or with one that is not finite.
    """
    # Half a second of import that the reader of a finished table does not need.
    from scipy import stats

    if values.empty or not np.isfinite(values).all(axis=None):
        raise ValueError(f"values are {values.to_numpy().tolist()}: expected at least one, all finite")
    mean, se = values.mean(axis=1), values.sem(axis=1)
    reach = stats.t.ppf((1 + confidence) / 2, values.shape[1] - 1) * se
    return pd.DataFrame({"mean": mean, "se": se, "low": mean - reach, "high": mean + reach})


def verdict(differences: np.ndarray, *, low: float, high: float, image: float) -> str:
    """The strongest word that paired differences allow: one number a seed, and the interval of their mean.

    image: what one test image is worth, in the same unit. From `ENOUGH_SEEDS` seeds on: higher or lower if the interval
    excludes 0. With fewer at most a direction, if all seeds agree in sign. Otherwise `no difference shown`, which is not the
    same as `no difference`; also if the mean is worth `TOO_FEW_IMAGES` or less: seeds share their test images, so one image
    that is hard for an arm makes all of them agree.
    """
    seeds = len(differences)
    if seeds == 1:
        return ONE_SEED
    # Rounded, because 1.5 images are the mean of one and two, and floats do not add up to it.
    if round(abs(float(np.mean(differences))), 9) <= round(TOO_FEW_IMAGES * image, 9):
        return NO_DIFFERENCE
    if seeds < ENOUGH_SEEDS:
        low, high = min(differences), max(differences)
    if low > 0:
        return DIRECTION_HIGHER if seeds < ENOUGH_SEEDS else HIGHER
    if high < 0:
        return DIRECTION_LOWER if seeds < ENOUGH_SEEDS else LOWER
    return NO_DIFFERENCE


def chance_of_agreement(seeds: int) -> int:
    """Without any difference, `seeds` paired differences agree in sign in one of this many comparisons."""
    return 2 ** (seeds - 1)


def bootstrap_interval(values: np.ndarray, *, confidence: float, resamples: int) -> tuple[float, float]:
    """Percentile interval (low, high) of the mean of values (N,) over draws of N of them with replacement.

    It shows how much the choice of the test images matters, with the trained networks as they are. The same input gives
    the same interval. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    count = len(values)
    draw = np.random.default_rng(0)
    means = [float(values[draw.integers(count, size=count)].mean()) for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def accuracy_error(share: float, images: int) -> float:
    """Standard error of one accuracy, as a share, from the choice of the test images alone (binomial)."""
    return math.sqrt(share * (1 - share) / images)
