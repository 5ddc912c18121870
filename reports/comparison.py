"""The comparison of every arm with the baseline: one frame, of which files, tables, charts and sentences are views."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.protocols import HEADLINE, find, label_of
from reports.results import Results
from reports.statistics import (
    BASELINE,
    DIRECTION_HIGHER,
    DIRECTION_LOWER,
    ENOUGH_SEEDS,
    HIGHER,
    LOWER,
    ONE_SEED,
    accuracy_error,
    bootstrap_interval,
    chance_of_agreement,
    estimate,
    verdict,
)

ESTIMATE, DIFFERENCE = (
    ["mean", "se", "low", "high"],
    ["difference", "difference_se", "difference_low", "difference_high"],
)
IMAGES = ["images_low", "images_high"]
NUMBERS = [*ESTIMATE, *DIFFERENCE, *IMAGES]
COLUMNS = ["arm", "protocol", "baseline", "seeds", "test_images", "confidence", *NUMBERS, "verdict"]
SEED = "seed_"


def compare(results: Results, *, baseline: str, confidence: float, resamples: int) -> pd.DataFrame:
    """A row for every arm and protocol, in the order of `results.scores`: `COLUMNS`, and the value of each seed.

    Numbers are shares in [0, 1]. The difference is arm - baseline, paired by seed; it is NaN for the baseline itself, as
    standard errors and intervals are with one seed. images_low to images_high: bootstrap interval of the difference over
    test images, NaN if no predictions are kept.
    """
    keys = ["arm", "protocol"]
    scores = results.scores.set_index(keys)
    values = scores.pivot(columns="seed", values="value").loc[scores.index.unique(), results.seeds]
    differences = values.sub(values.loc[baseline], level="protocol")
    others = values.index.get_level_values("arm") != baseline
    apart = estimate(differences, confidence=confidence)[others]
    words = [
        verdict(row, low=low, high=high)
        for row, low, high in zip(differences[others].to_numpy(), apart["low"], apart["high"], strict=True)
    ]
    images = partial(_over_images, results, baseline=baseline, confidence=confidence, resamples=resamples)
    rows = values.add_prefix(SEED).join(
        [
            estimate(values, confidence=confidence),
            apart.set_axis(DIFFERENCE, axis=1),
            pd.Series(words, apart.index, name="verdict", dtype=object),
            pd.DataFrame([images(*key) for key in apart.index], apart.index, IMAGES, dtype=float),
            scores["test_images"].groupby(keys).first(),
        ]
    )
    rows = rows.assign(baseline=baseline, seeds=values.shape[1], confidence=confidence)
    rows["verdict"] = rows["verdict"].fillna(BASELINE)
    return rows.reset_index()[[*COLUMNS, *values.add_prefix(SEED)]]


def _over_images(
    results: Results, arm: str, protocol: str, *, baseline: str, confidence: float, resamples: int
) -> tuple[float, float]:
    mine, theirs = results.correct(arm, protocol), results.correct(baseline, protocol)
    if mine is None or theirs is None:
        return np.nan, np.nan
    apart = mine - theirs
    return bootstrap_interval(apart[~np.isnan(apart)], confidence=confidence, resamples=resamples)


def flat_metrics(rows: pd.DataFrame) -> dict[str, float]:
    """`<arm>/<protocol>/<number>` of every number that a row has, for `dvc metrics diff`."""
    numbers: Any = rows.set_index(["arm", "protocol"])[NUMBERS].stack().dropna()
    return {"/".join(key): float(value) for key, value in numbers.items()}


def to_csv(rows: pd.DataFrame) -> str:
    """The rows as CSV; a number that a row does not have is empty."""
    return rows.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def from_csv(path: Path) -> pd.DataFrame:
    """The rows of a file that `to_csv` wrote; a missing or damaged file is a ValueError that names it."""
    try:
        # An arm may be called `null` or `007`, and stays a name.
        types = dict.fromkeys(("arm", "protocol", "baseline", "verdict"), str) | dict.fromkeys(NUMBERS, float)
        rows = pd.read_csv(path, encoding="utf-8", dtype=types, keep_default_na=False, na_values=[""])
        rows = rows[[*COLUMNS, *rows.filter(regex=f"^{SEED}")]]
    except FileNotFoundError:
        raise ValueError(f"{path}: not found; run `dvc repro` to make it") from None
    except (KeyError, ValueError):
        rows = pd.DataFrame(columns=COLUMNS)
    if headline(rows).empty or rows[["arm", "mean", "verdict"]].isna().any(axis=None):
        raise ValueError(f"{path}: damaged; delete it and run `dvc repro compare`")
    return rows


def values_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The value of each seed, a column a seed."""
    return rows.filter(regex=f"^{SEED}").rename(columns=lambda name: name.removeprefix(SEED))


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the headline protocols."""
    return rows[rows["protocol"].isin(HEADLINE)]


def sentences(rows: pd.DataFrame) -> tuple[str, str]:
    """The verdict in two sentences: how the first arm compares with the baseline, and what that is worth."""
    baseline = rows["baseline"].iloc[0]
    others = rows.loc[rows["arm"] != baseline, "arm"].unique()
    if not len(others):
        return f"Only {baseline} ran.", "There is nothing to compare it with: add an arm to arms.names."
    leading = headline(rows)
    mine = leading[leading["arm"] == others[0]]
    return _result(mine), _worth(leading, comparisons=len(others) * len(mine))


WORDS = {
    DIRECTION_HIGHER: "all seeds point up",
    DIRECTION_LOWER: "all seeds point down",
    ONE_SEED: "one seed, so no verdict,",
}


def _result(rows: pd.DataFrame) -> str:
    parts = []
    for word, group in rows.groupby("verdict", sort=False):
        differences = zip(group["protocol"], group["difference"], strict=True)
        protocols = [f"{label_of(protocol)} ({points(difference)})" for protocol, difference in differences]
        parts.append(f"{WORDS.get(str(word), word)} in {_listed(protocols)}")
    first = rows.iloc[0]
    return f"{first['arm']} against {first['baseline']}: {'; '.join(parts)}, in percentage points of accuracy."


def _worth(rows: pd.DataFrame, *, comparisons: int) -> str:
    first = rows.iloc[0]
    seeds, images = first["seeds"], first["test_images"]
    means = rows.loc[rows["arm"] == first["baseline"], "mean"]
    chance = 100 * max(accuracy_error(mean, images) for mean in means)
    if seeds == 1:
        return f"One seed and {images:,} test images show that everything runs, and nothing about the arms."
    if seeds < ENOUGH_SEEDS:
        return (
            f"{seeds} seeds can show a direction at most, for they agree by chance alone in 1 of "
            f"{chance_of_agreement(seeds)} comparisons; the choice of {images:,} test images alone is worth "
            f"±{chance:.1f} points."
        )
    return (
        f"The words rest on {100 * first['confidence']:g} % Student-t intervals over {seeds} paired seeds, not corrected "
        f"for the {comparisons} comparisons made; the choice of {images:,} test images alone is worth "
        f"±{chance:.1f} points."
    )


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def percent(share: float, se: float = np.nan) -> str:
    """A share in per cent, and its standard error if there is one: `41.2 ± 0.6`."""
    return _number(share, lambda value: f"{100 * value:.1f}") + (f" ± {100 * se:.1f}" if pd.notna(se) else "")


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign: `+1.3`, `−0.4`."""
    return _number(share, lambda value: f"{100 * value:+.1f}".replace("-", "−"))


def _number(value: float, shown: Callable[[float], str]) -> str:
    return shown(value) if pd.notna(value) else "–"


def tone(protocol: str, word: str) -> str:
    """`better` or `worse` for a verdict on a protocol; a mere direction is neither, and the tone is empty."""
    if word not in (HIGHER, LOWER):
        return ""
    return "better" if (word == HIGHER) == find(protocol)[0].higher_is_better else "worse"
