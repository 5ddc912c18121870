"""The comparison on a terminal: the table, the verdict, and where everything lies."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.recorded import check_recorded
from reports.comparison import Row, from_csv, headline, percent, points, sentences
from reports.results import label_of
from reports.statistics import DIRECTION_HIGHER, DIRECTION_LOWER, HIGHER, LOWER
from shards.files import read_json

STYLES = {HIGHER: "green", LOWER: "red", DIRECTION_HIGHER: "", DIRECTION_LOWER: ""}
# Straight to the runs: the start page of MLflow 3 is about traces of language models.
MLFLOW_PAGE = "http://127.0.0.1:5000/#/experiments/1/runs"
PART_METHODS = {
    "learned": "learned", "raw": "raw attention", "kmeans": "token clusters", "colour": "colour clusters",
    "xy": "position clusters", "random": "random",
}  # fmt: skip


def comparison_table(rows: Sequence[Row]) -> Table:
    """Arms by headline protocols: mean ± standard error in %, difference to the baseline in points, and verdict."""
    told = headline(rows)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("arm")
    for name in dict.fromkeys(row.protocol for row in told):
        table.add_column(label_of(name), justify="right", no_wrap=True)
    for arm in dict.fromkeys(row.arm for row in told):
        table.add_row(arm, *(_cell(row) for row in told if row.arm == arm))
    return table


def _cell(row: Row) -> Text:
    text = Text(percent(row.mean, row.se))
    if row.is_baseline:
        return text.append(f"\n{row.verdict}", "dim")
    return text.append(f" ({points(row.difference)})").append(f"\n{row.verdict}", STYLES.get(row.verdict, "dim"))


def part_line(metrics: Mapping[str, float]) -> str | None:
    """One line on part quality from `parts/<method>/nmi_foreground`; None where the data has no part labels."""
    found = {label: metrics.get(f"parts/{method}/nmi_foreground") for method, label in PART_METHODS.items()}
    told = [f"{label} {value:.2f}" for label, value in found.items() if value is not None]
    return f"Part quality, NMI with the true parts, foreground of the test set: {', '.join(told)}" if told else None


def print_summary(root: Path, tracking_uri: str, console: Console | None = None) -> None:
    """Print the comparison below `root` from `report/` alone; raises ValueError when it is not there, or damaged."""
    console = console or Console(highlight=False)
    check_recorded("report/comparison.csv", "report/metrics.json", root=root)
    rows = from_csv(root / "report/comparison.csv")
    metrics = read_json(root / "report/metrics.json")
    first = rows[0]
    console.print(
        f"\nAccuracy in % on {first.test_images:,} test images: mean ± standard error over {first.seeds} "
        f"seed{'s' * (first.seeds > 1)} (difference to {first.baseline}, paired by seed).",
        soft_wrap=True,
    )
    console.print()
    console.print(comparison_table(rows))
    console.print()
    for sentence in (*sentences(rows), part_line(metrics)):
        if sentence is not None:
            console.print(sentence, soft_wrap=True)
    console.print()
    places = {
        "report": root / "report/report.html",
        "numbers": root / "report/comparison.csv",
        "part masks": root / "masks/learned",
        "encoders": root / "pretrained",
    }
    for name, path in places.items():
        console.print(f"{name:<11} {path}", soft_wrap=True)
    console.print(f"{'MLflow':<11} mlflow ui --backend-store-uri {tracking_uri}", soft_wrap=True)
    console.print(f"{'':<11} and then {MLFLOW_PAGE}", soft_wrap=True)
