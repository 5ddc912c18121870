"""The comparison on a terminal: the table, the verdict, and the paths of all results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.protocols import label_of
from jobs.recorded import check_recorded
from reports.comparison import from_csv, headline, percent, points, sentences, tone
from reports.statistics import BASELINE, DIRECTION_HIGHER, DIRECTION_LOWER
from shards.files import read_json

STYLES = {"better": "green", "worse": "red"}
# Straight to the runs: the start page of MLflow 3 shows traces of language models.
MLFLOW_PAGE = "http://127.0.0.1:5000/#/experiments/1/runs"
PART_METHODS = {
    "learned": "learned", "raw": "raw attention", "kmeans": "token clusters", "colour": "colour clusters",
    "xy": "position clusters", "random": "random",
}  # fmt: skip


def comparison_table(rows: pd.DataFrame) -> Table:
    """Arms by headline protocols: mean ± standard error in %, difference to the baseline in points, and verdict."""
    leading = headline(rows)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("arm")
    for name in leading["protocol"].unique():
        table.add_column(label_of(name), justify="right", no_wrap=True)
    for arm, of_arm in leading.groupby("arm", sort=False):
        table.add_row(str(arm), *map(_cell, of_arm.itertuples()))
    return table


def _cell(row: Any) -> Text:
    text = Text(percent(row.mean, row.se))
    if row.verdict != BASELINE:
        text.append(f" ({points(row.difference)})")
    plain = "" if row.verdict in (DIRECTION_HIGHER, DIRECTION_LOWER) else "dim"
    return text.append(f"\n{row.verdict}", STYLES.get(tone(row.protocol, row.verdict), plain))


def part_line(metrics: Mapping[str, float]) -> str | None:
    """One line on part quality from `parts/<method>/nmi_foreground`; None if the data has no part labels."""
    scores = {label: metrics.get(f"parts/{method}/nmi_foreground") for method, label in PART_METHODS.items()}
    parts = ", ".join(f"{label} {score:.2f}" for label, score in scores.items() if score is not None)
    return f"Part quality, NMI with the true parts, foreground of the test set: {parts}" if parts else None


def print_summary(root: Path, tracking_uri: str, console: Console | None = None) -> None:
    """Print the comparison below `root` from `report/` alone; ValueError if it is missing or damaged."""
    console = console or Console(highlight=False)
    check_recorded("report/comparison.csv", "report/metrics.json", root=root)
    rows = from_csv(root / "report/comparison.csv")
    first = headline(rows).iloc[0]
    seeds = "1 seed" if first["seeds"] == 1 else f"{first['seeds']} seeds"
    paths = {
        "report": root / "report/report.html",
        "numbers": root / "report/comparison.csv",
        "part masks": root / "masks/learned",
        "encoders": root / "pretrained",
        "MLflow": f"mlflow ui --backend-store-uri {tracking_uri}",
        "": f"and then {MLFLOW_PAGE}",
    }
    paragraphs = [
        f"\nAccuracy in % on {first['test_images']:,} test images: mean ± standard error over {seeds} "
        f"(difference to {first['baseline']}, paired by seed).\n",
        comparison_table(rows),
        "",
        *filter(None, (*sentences(rows), part_line(read_json(root / "report/metrics.json")))),
        "",
        *(f"{name:<11} {path}" for name, path in paths.items()),
    ]
    for paragraph in paragraphs:
        console.print(paragraph, soft_wrap=isinstance(paragraph, str))
