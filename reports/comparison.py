"""The comparison of every arm with the baseline: one frame, of which files, tables, charts and sentences are views."""

from collections.abc import Callable, Mapping, Sequence
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

ESTIMATE = ["mean", "se", "low", "high"]
DIFFERENCE = ["difference", *(f"difference_{name}" for name in ESTIMATE[1:])]
IMAGES = ["images_low", "images_high"]
NUMBERS = [*ESTIMATE, *DIFFERENCE, *IMAGES]
FLOORS = ["largest_class", "chance"]
COLUMNS = ["arm", "protocol", "baseline", "seeds", "test_images", *FLOORS, "confidence", *NUMBERS, "verdict"]
SEED = "seed_"
NO_ACCURACY = "The images have no labels that could judge the encoders, so no accuracy was measured."
VALIDATION = (
    "Validation loss: mean over whole images of val, under the same random masks for every arm. It favours an arm that was "
    "trained with random masks, and does not measure semantics."
)
WHERE_TO_JUDGE = (
    "To judge the encoders put a labelled set into data/transfer/NAME and name it in transfer.sets of params.yaml."
)


def compare(results: Results, *, baseline: str, confidence: float, resamples: int) -> pd.DataFrame:
    """A row for every arm and protocol, in the order of `results.scores`: `COLUMNS`, and the value of each seed.

    Numbers are shares in [0, 1]. The difference is arm - baseline, paired by seed; it is NaN for the baseline itself, as
    standard errors and intervals are with one seed. images_low to images_high: bootstrap interval of the difference over
    test images, NaN if no predictions are kept. largest_class, chance: as in the scores. No scores give no rows.
    """
    if results.scores.empty:
        return pd.DataFrame(columns=[*COLUMNS, *(f"{SEED}{seed}" for seed in results.seeds)])
    keys = ["arm", "protocol"]
    scores = results.scores.set_index(keys)
    fixed = scores[["test_images", *FLOORS, "image"]].groupby(keys).first()
    values = scores.pivot(columns="seed", values="value").loc[scores.index.unique(), results.seeds]
    differences = values.sub(values.loc[baseline], level="protocol")
    others = values.index.get_level_values("arm") != baseline
    apart = estimate(differences, confidence=confidence)[others]
    words = [
        verdict(row, low=low, high=high, image=image)
        for row, low, high, image in zip(
            differences[others].to_numpy(), apart["low"], apart["high"], fixed["image"][apart.index], strict=True
        )
    ]
    images = partial(_over_images, results, baseline=baseline, confidence=confidence, resamples=resamples)
    rows = values.add_prefix(SEED).join(
        [
            estimate(values, confidence=confidence),
            apart.set_axis(DIFFERENCE, axis=1),
            pd.Series(words, apart.index, name="verdict", dtype=object),
            pd.DataFrame([images(*key) for key in apart.index], apart.index, IMAGES, dtype=float),
            fixed,
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
    numbers: Any = rows.set_index(["arm", "protocol"])[NUMBERS].astype(float).stack().dropna()
    return {"/".join(key): float(value) for key, value in numbers.items()}


def to_csv(rows: pd.DataFrame) -> str:
    """The rows as CSV; a number that a row does not have is empty."""
    return rows.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def from_csv(path: Path) -> pd.DataFrame:
    """The rows of a file that `to_csv` wrote; a missing or damaged file is a ValueError that names it."""
    try:
        # An arm may be called `null` or `007`, and stays a name.
        names, numbers = ("arm", "protocol", "baseline", "verdict"), (*NUMBERS, *FLOORS)
        types = dict.fromkeys(names, str) | dict.fromkeys(numbers, float)
        rows = pd.read_csv(path, encoding="utf-8", dtype=types, keep_default_na=False, na_values=[""])
        rows = rows[[*COLUMNS, *rows.filter(regex=f"^{SEED}")]]
        has_values = bool(rows[["arm", "mean", "verdict"]].notna().all(axis=None))
        # Every arm has every protocol.
        is_whole = has_values and len(rows) == rows["arm"].nunique() * rows["protocol"].nunique()
    except FileNotFoundError:
        raise ValueError(f"{path}: not found; run `dvc repro` to make it") from None
    except (KeyError, ValueError):
        is_whole = False
    if not is_whole:
        raise ValueError(f"{path}: damaged; delete it and run `dvc repro compare`")
    return rows


def values_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The value of each seed, a column a seed."""
    return rows.filter(regex=f"^{SEED}").rename(columns=lambda name: name.removeprefix(SEED))


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the headline protocols: on the images themselves, or without any on the other data sets, or else all rows."""
    own = rows["protocol"].isin(HEADLINE)
    either = own if own.any() else rows["protocol"].str.replace(r".*/", "", regex=True).isin(HEADLINE)
    return rows[either] if either.any() else rows


def has_labels(rows: pd.DataFrame) -> bool:
    """Whether the images themselves have labels, and not only other data sets."""
    return bool(rows["protocol"].isin(HEADLINE).any())


def validation_losses(metrics: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Arm -> mean and standard error over seeds of its validation loss, from `<arm>/val_loss/mean` and `se`."""
    means = {name.partition("/")[0]: mean for name, mean in metrics.items() if name.endswith("/val_loss/mean")}
    return {arm: (mean, metrics.get(f"{arm}/val_loss/se", np.nan)) for arm, mean in means.items()}


def measured(rows: pd.DataFrame) -> str:
    """What the numbers of the rows are."""
    is_iou = rows["protocol"].str.endswith("_miou")
    return "mIoU" if is_iou.all() else "Accuracy and mIoU" if is_iou.any() else "Accuracy"


def test_sets(rows: pd.DataFrame) -> str:
    """On how many test images the rows were measured, and of which other data set: `340 test images of birds`."""
    sets = rows["protocol"].map(lambda name: name.rpartition("/")[0])
    counts = rows.groupby(sets, sort=False)["test_images"].first()
    return _listed([f"{count:,} test images{f' of {name}' if name else ''}" for name, count in counts.items()])


def sentences(rows: pd.DataFrame) -> tuple[str, str]:
    """The verdict in two sentences: how the first arm compares with the baseline, and what that is worth.

    The second comes first where too few seeds ran: nobody shall read a difference before its caveat.
    """
    if rows.empty:
        return NO_ACCURACY, WHERE_TO_JUDGE
    baseline = rows["baseline"].iloc[0]
    others = rows.loc[rows["arm"] != baseline, "arm"].unique()
    if not len(others):
        return f"Only {baseline} ran.", "There is nothing to compare it with: add an arm to arms.names."
    leading = headline(rows)
    mine = leading[leading["arm"] == others[0]]
    result, worth = _result(mine), _worth(leading, comparisons=len(others) * len(mine))
    return (worth, result) if rows["seeds"].iloc[0] < ENOUGH_SEEDS else (result, worth)


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
    return f"{first['arm']} against {first['baseline']}: {'; '.join(parts)}, in percentage points."


def _worth(rows: pd.DataFrame, *, comparisons: int) -> str:
    first = rows.iloc[0]
    seeds = first["seeds"]
    if seeds == 1:
        return f"One seed and {test_sets(rows)} show that everything runs, and nothing about the arms."
    # The error of a mIoU or of a mean over attributes, which have no chance level, has no formula.
    accuracies = rows[(rows["arm"] == first["baseline"]) & rows["chance"].notna()]
    errors = list(map(accuracy_error, accuracies["mean"], accuracies["test_images"]))
    images = f"; the choice of {test_sets(rows)} alone is worth ±{100 * max(errors):.1f} points." if errors else "."
    if seeds < ENOUGH_SEEDS:
        return (
            f"{seeds} seeds cannot show a difference, but a direction at most: they agree by chance alone in 1 of "
            f"{chance_of_agreement(seeds)} comparisons{images}"
        )
    return (
        f"The words rest on {100 * first['confidence']:g} % Student-t intervals over {seeds} paired seeds, not corrected "
        f"for the {comparisons} comparisons made{images}"
    )


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def loss(mean: float, se: float = np.nan) -> str:
    """A loss, and its standard error if there is one: `0.412 ± 0.006`."""
    return f"{mean:.3f}" + (f" ± {se:.3f}" if pd.notna(se) else "")


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
