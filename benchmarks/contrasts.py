"""Differences between any two arms of a finished comparison, paired by seed, in points: `python -m benchmarks.contrasts`.

For each protocol: mean, Student-t interval, standard deviation of the paired differences, and the difference that as many
seeds find in four cases of five.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from evaluation.protocols import label_of
from reports.comparison import from_csv, values_of
from reports.statistics import estimate

COMPARISON = Path("report/comparison.csv")
POWER = 0.8


def contrast(rows: pd.DataFrame, arm: str, other: str, *, confidence: float = 0.95) -> pd.DataFrame:
    """A row a protocol: mean, low, high, sd and detectable of `arm` minus `other`. rows: of `reports.comparison.from_csv`."""
    from scipy import stats

    values = values_of(rows).set_axis(pd.MultiIndex.from_frame(rows[["arm", "protocol"]]))
    if missing := [name for name in (arm, other) if name not in set(rows["arm"])]:
        raise ValueError(f"{missing[0]}: no such arm; there are {', '.join(rows['arm'].unique())}")
    apart = pd.DataFrame(100 * (values.loc[arm] - values.loc[other]))
    freedom = apart.shape[1] - 1
    factor = stats.t.ppf((1 + confidence) / 2, freedom) + stats.t.ppf(POWER, freedom)
    found = estimate(apart, confidence=confidence)
    return found.assign(sd=apart.std(axis=1), detectable=factor * found["se"])


def main(
    pairs: Annotated[list[str], typer.Argument(help="ARM:OTHER, which prints the difference ARM - OTHER; repeatable")],
    folder: Annotated[Path, typer.Option(help="project or experiment that holds report/comparison.csv")] = Path(),
    confidence: Annotated[float, typer.Option(help="coverage of the intervals")] = 0.95,
) -> None:
    """Print the differences as Markdown."""
    rows = from_csv(folder / COMPARISON)
    for pair in pairs:
        arm, _, other = pair.partition(":")
        print(f"\n{arm} - {other}, {values_of(rows).shape[1]} seeds\n")
        print(
            f"| protocol | difference | {100 * confidence:g} % interval | paired sd | detectable |\n|---|---|---|---|---|"
        )
        for protocol, row in contrast(rows, arm, other, confidence=confidence).iterrows():
            numbers = f"{row['mean']:+.2f} | {row['low']:+.2f} to {row['high']:+.2f} | {row['sd']:.2f} | {row['detectable']:.2f}"
            print(f"| {label_of(str(protocol))} | {numbers} |")


if __name__ == "__main__":
    typer.run(main)
