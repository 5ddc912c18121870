"""The comparison on a terminal: the table, the verdict, and the paths of all results."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from evaluation.protocols import label_of
from jobs.recorded import check_recorded
from reports import comparison
from reports.part_summary import LEADING_MEASURES
from reports.statistics import BASELINE, DIRECTION_HIGHER, DIRECTION_LOWER
from shards.files import read_json

# Columns of a console on which no table is too wide.
ANY_WIDTH = 10_000
STYLES = {"better": "green", "worse": "red"}
# As `pipeline.tracking.views` writes it, at `mlflow ui`.
MLFLOW_PAGE = "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=results"
PART_METHODS = {
    "learned": "learned", "raw": "raw attention", "kmeans": "token clusters", "colour": "colour clusters",
    "xy": "position clusters", "random": "random",
}  # fmt: skip


def comparison_tables(rows: pd.DataFrame, console: Console) -> list[Table]:
    """Arms by protocols: mean ± standard error in %, difference to the baseline in points, and verdict; then the floors.

    One table if the console is wide enough, else one for each protocol.
    """
    whole = _table(rows)
    if Measurement.get(console, console.options.update(max_width=ANY_WIDTH), whole).maximum <= console.width:
        return [whole]
    return [_table(of_protocol) for _, of_protocol in rows.groupby("protocol", sort=False)]


def _table(rows: pd.DataFrame) -> Table:
    table = _empty_table("arm", *map(label_of, rows["protocol"].unique()))
    for arm, of_arm in rows.groupby("arm", sort=False):
        table.add_row(str(arm), *map(_cell, of_arm.itertuples()))
    floors = rows.drop_duplicates("protocol")
    table.add_section()
    table.add_row("largest class", *map(comparison.percent, floors["largest_class"]), style="dim")
    table.add_row("chance", *map(comparison.percent, floors["chance"]), style="dim")
    return table


def _empty_table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", overflow="fold")
    return table


def validation_table(metrics: Mapping[str, float]) -> Table:
    """Validation loss by arm: mean ± standard error over seeds."""
    table = _empty_table("arm", "validation loss")
    for arm, numbers in comparison.validation_losses(metrics).items():
        table.add_row(arm, comparison.loss(*numbers))
    return table


def _cell(row: Any) -> Text:
    text = Text(comparison.percent(row.mean, row.se))
    if row.verdict != BASELINE:
        text.append(f" ({comparison.points(row.difference)})")
    plain = "" if row.verdict in (DIRECTION_HIGHER, DIRECTION_LOWER) else "dim"
    return text.append(f"\n{row.verdict}", STYLES.get(comparison.tone(row.protocol, row.verdict), plain))


def part_line(metrics: Mapping[str, float]) -> str | None:
    """One line on part quality from the leading measure of `parts/<method>/`; None if the data has no part labels."""
    for measure, label in LEADING_MEASURES.items():
        scores = {label: metrics.get(f"parts/{method}/{measure}") for method, label in PART_METHODS.items()}
        parts = ", ".join(f"{method} {score:.2f}" for method, score in scores.items() if score is not None)
        if parts:
            return f"Part quality, {label}, test set: {parts}"
    return None


def print_summary(root: Path, mlflow: str, console: Console | None = None) -> None:
    """Print the comparison below `root` from `report/` alone; ValueError if it is missing or damaged.

    mlflow: the address of its results page, or the URI of a database that no server shows.
    """
    console = console or Console(highlight=False)
    check_recorded("report/comparison.csv", "report/metrics.json", root=root)
    rows, metrics = comparison.from_csv(root / "report/comparison.csv"), read_json(root / "report/metrics.json")
    paths = {
        "report": root / "report/report.html",
        "numbers": root / "report/comparison.csv",
        "part masks": root / "masks/learned",
        "encoders": root / "pretrained",
        **(
            {"MLflow": mlflow}
            if mlflow.startswith("http")
            else {"MLflow": f"mlflow ui --backend-store-uri {mlflow}", "": f"and then {MLFLOW_PAGE}"}
        ),
    }
    paragraphs = [
        "",
        *_accuracies(rows, console),
        *filter(None, (*comparison.sentences(rows), part_line(metrics))),
        *(() if comparison.has_labels(rows) else ("", validation_table(metrics), "", comparison.VALIDATION)),
        "",
        *(f"{name:<11} {path}" for name, path in paths.items()),
    ]
    for paragraph in paragraphs:
        # A path may hold brackets, which are no markup.
        console.print(paragraph, markup=False, soft_wrap=isinstance(paragraph, str))


def _accuracies(rows: pd.DataFrame, console: Console) -> Iterator[str | Table]:
    """The tables of the leading protocols, after what they show; nothing if nothing has labels."""
    leading = comparison.headline(rows)
    if leading.empty:
        return
    first = leading.iloc[0]
    seeds = "1 seed" if first["seeds"] == 1 else f"{first['seeds']} seeds"
    yield (
        f"{comparison.measured(leading)} in % on {comparison.test_sets(leading)}: mean ± standard error over {seeds} "
        f"(difference to {first['baseline']}, paired by seed)."
    )
    for table in comparison_tables(leading, console):
        yield from ("", table)
    yield ""
