"""The comparison: every arm by every protocol against the baseline, as rows, files and two sentences."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from reports.results import HEADLINE, Results, label_of
from reports.statistics import (
    BASELINE,
    DIRECTION_HIGHER,
    DIRECTION_LOWER,
    ENOUGH_SEEDS,
    HIGHER,
    LOWER,
    ONE_SEED,
    Estimate,
    accuracy_error,
    bootstrap_interval,
    chance_of_agreement,
    estimate,
    paired_difference,
    verdict,
)

NUMBERS = (
    "mean", "se", "low", "high", "difference", "difference_se", "difference_low", "difference_high",
    "images_low", "images_high",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One arm under one protocol: shares in [0, 1]; the difference is arm - baseline, paired by seed.

    Standard errors and intervals are None with one seed; all that is about the difference is None for the baseline.
    images_low, images_high: bootstrap interval of the difference over test images, None where no predictions are kept.
    """

    arm: str
    protocol: str
    baseline: str
    seeds: int
    test_images: int
    confidence: float
    mean: float
    se: float | None
    low: float | None
    high: float | None
    difference: float | None
    difference_se: float | None
    difference_low: float | None
    difference_high: float | None
    images_low: float | None
    images_high: float | None
    verdict: str
    values: tuple[float, ...]

    @property
    def is_baseline(self) -> bool:
        """Whether this is what the others are compared with."""
        return self.arm == self.baseline


def compare(results: Results, *, baseline: str, confidence: float, resamples: int) -> list[Row]:
    """A row for every arm and protocol: arms in their given order, protocols headline first."""
    return [
        _row(results, arm, name, baseline=baseline, confidence=confidence, resamples=resamples)
        for arm in results.arms
        for name in results.names
    ]


def _row(results: Results, arm: str, name: str, *, baseline: str, confidence: float, resamples: int) -> Row:
    values, reference = results.values(arm, name), results.values(baseline, name)
    own = estimate(values, confidence=confidence)
    apart: Estimate | None = None
    word = BASELINE
    over_images: tuple[float | None, float | None] = (None, None)
    if arm != baseline:
        apart = paired_difference(values, reference, confidence=confidence)
        word = verdict(values, reference, confidence=confidence)
        over_images = _over_images(results.correct(arm, name), results.correct(baseline, name), confidence, resamples)
    return Row(
        arm=arm,
        protocol=name,
        baseline=baseline,
        seeds=len(values),
        test_images=results.images_of(name),
        confidence=confidence,
        mean=own.mean,
        se=own.se,
        low=own.low,
        high=own.high,
        difference=apart and apart.mean,
        difference_se=apart and apart.se,
        difference_low=apart and apart.low,
        difference_high=apart and apart.high,
        images_low=over_images[0],
        images_high=over_images[1],
        verdict=word,
        values=tuple(values),
    )


def _over_images(
    mine: np.ndarray | None, theirs: np.ndarray | None, confidence: float, resamples: int
) -> tuple[float | None, float | None]:
    if mine is None or theirs is None:
        return None, None
    apart = mine - theirs
    return bootstrap_interval(apart[~np.isnan(apart)], confidence=confidence, resamples=resamples)


def flat_metrics(rows: Iterable[Row]) -> dict[str, float]:
    """`<arm>/<protocol>/<number>` of every number that a row has, for `dvc metrics diff`."""
    return {
        f"{row.arm}/{row.protocol}/{number}": value
        for row in rows
        for number in NUMBERS
        if (value := getattr(row, number)) is not None
    }


def to_csv(rows: Sequence[Row], seeds: Sequence[int]) -> str:
    """The rows as CSV, one column `seed_<seed>` a seed; what a row has not is empty."""
    out = io.StringIO()
    names = [name for name in asdict(rows[0]) if name != "values"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *(f"seed_{seed}" for seed in seeds)])
    for row in rows:
        writer.writerow([_cell(value) for value in (*(getattr(row, name) for name in names), *row.values)])
    return out.getvalue()


def from_csv(path: Path) -> list[Row]:
    """The rows of a file that `to_csv` wrote; a missing or damaged file is a ValueError that names it."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [_parsed(record) for record in csv.DictReader(file)]
    except FileNotFoundError:
        raise ValueError(f"{path}: not found; run `dvc repro`, which makes it") from None
    except (KeyError, TypeError, ValueError, csv.Error):
        rows = []
    if not rows:
        raise ValueError(f"{path}: damaged; delete it and run `dvc repro compare`")
    return rows


def _cell(value: object) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _parsed(record: Mapping[str, str]) -> Row:
    numbers = {name: float(record[name]) if record[name] else None for name in NUMBERS if name != "mean"}
    return Row(
        arm=record["arm"],
        protocol=record["protocol"],
        baseline=record["baseline"],
        seeds=int(record["seeds"]),
        test_images=int(record["test_images"]),
        confidence=float(record["confidence"]),
        mean=float(record["mean"]),
        verdict=record["verdict"],
        values=tuple(float(value) for name, value in record.items() if name.startswith("seed_")),
        **numbers,
    )


def headline(rows: Iterable[Row]) -> list[Row]:
    """The rows of the headline protocols."""
    return [row for row in rows if row.protocol in HEADLINE]


def sentences(rows: Sequence[Row]) -> tuple[str, str]:
    """The verdict in two sentences: what was seen of the first arm that is not the baseline, and what that is worth."""
    told = headline(rows)
    arms = list(dict.fromkeys(row.arm for row in rows if not row.is_baseline))
    first = told[0]
    if not arms:
        return f"Only {first.baseline} ran.", "There is nothing to compare it with: add an arm to arms.names."
    mine = [row for row in told if row.arm == arms[0]]
    return _seen(mine), _worth(told, comparisons=len(arms) * len(mine))


def _seen(rows: Sequence[Row]) -> str:
    start = f"{rows[0].arm} against {rows[0].baseline}"
    by_word: dict[str, list[str]] = {}
    for row in rows:
        by_word.setdefault(row.verdict, []).append(f"{label_of(row.protocol)} ({points(row.difference)})")
    told = [f"{WORDS.get(word, word)} in {_listed(found)}" for word, found in by_word.items()]
    return f"{start}: {'; '.join(told)}, in percentage points of accuracy."


WORDS = {
    DIRECTION_HIGHER: "all seeds point up",
    DIRECTION_LOWER: "all seeds point down",
    ONE_SEED: "one seed, so no verdict,",
    HIGHER: "higher",
    LOWER: "lower",
}


def _worth(rows: Sequence[Row], *, comparisons: int) -> str:
    first = rows[0]
    seeds, images = first.seeds, first.test_images
    chance = 100 * max(accuracy_error(row.mean, images) for row in rows if row.is_baseline)
    if seeds == 1:
        return f"One seed and {images:,} test images show that everything runs, and nothing about the arms."
    if seeds < ENOUGH_SEEDS:
        return (
            f"{seeds} seeds can show a direction at most, for they agree by chance alone in 1 of "
            f"{chance_of_agreement(seeds)} comparisons; the choice of {images:,} test images alone is worth "
            f"±{chance:.1f} points."
        )
    return (
        f"The words rest on {100 * first.confidence:g} % Student-t intervals over {seeds} paired seeds, not corrected "
        f"for the {comparisons} comparisons made; the choice of {images:,} test images alone is worth "
        f"±{chance:.1f} points."
    )


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def percent(share: float | None, se: float | None = None) -> str:
    """A share in percent, and its standard error where there is one: `41.2 ± 0.6`."""
    if share is None:
        return "–"
    return f"{100 * share:.1f}" if se is None else f"{100 * share:.1f} ± {100 * se:.1f}"


def points(share: float | None) -> str:
    """A difference of shares in percentage points, with its sign: `+1.3`, `−0.4`."""
    return "–" if share is None else f"{100 * share:+.1f}".replace("-", "−")
