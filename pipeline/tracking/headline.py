"""What the run of a state says first: its headline numbers as metrics, the verdict as its description, and the report."""

import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from config.params import read_yaml
from config.presets import changes_to_preset
from config.redaction import one_line, redacted, without_user
from evaluation.protocols import label_of
from pipeline.doctor.processes import RUN_VARIABLE
from pipeline.tracking.client import runs_of
from pipeline.tracking.keys import COMPARISON_STAGE
from pipeline.tracking.stage_runs import Content, Point, params_of, write_content
from pipeline.tracking.tags import PIPELINE_TAG
from pipeline.tracking.views import PRETRAINING, run_page, runs_page, views
from reports.comparison import from_csv, has_labels, headline, loss, percent, points, sentences, validation_losses
from shards.files import read_json

DESCRIPTION_TAG = "mlflow.note.content"
# The outs of the comparison.
FOLDER = Path("report")
REPORT = FOLDER / "report.html"
MINUS, MARGIN = "_minus_", "_margin"


def write_headline(client: Any, experiment: str, run: str, stages: Container[str]) -> None:
    """Write the run of a state: the parameters of this folder, and its comparison if that is among the `stages`.

    experiment, run: ids of MLflow.
    """
    params = params_of(read_yaml("params.yaml")) if Path("params.yaml").is_file() else {}
    content = Content(params, headline_points(), pictures=[REPORT]) if COMPARISON_STAGE in stages else Content(params)
    write_content(client, run, content)
    client.set_tag(run, DESCRIPTION_TAG, description(experiment, run, stages))
    states = runs_of(client, [experiment], f"tags.`{PIPELINE_TAG}` != ''")
    shown = {name for state in states for name in state.data.metrics if not name.endswith(MARGIN)}
    for tag, view in views(sorted(shown, key=lambda name: (MINUS in name, name))).items():
        client.set_experiment_tag(experiment, tag, view)


def headline_points() -> list[Point]:
    """`PROTOCOL/ARM`, and for every arm but the baseline `PROTOCOL/ARM_minus_BASELINE` with `_margin`: half its interval.

    Of images without labels `val_loss/ARM`, and the accuracies on other data sets as `SET/PROTOCOL/ARM`.
    """
    rows = _rows()
    numbers = {} if has_labels(rows) else {f"val_loss/{arm}": mean for arm, (mean, _) in _validation().items()}
    for row in _leading(rows):
        difference = f"{row.protocol}/{row.arm}{MINUS}{row.baseline}"
        numbers |= {
            f"{row.protocol}/{row.arm}": row.mean,
            difference: row.difference,
            f"{difference}{MARGIN}": (row.difference_high - row.difference_low) / 2,
        }
    return [Point(name, float(value), 0) for name, value in numbers.items() if pd.notna(value)]


def description(experiment: str, run: str, stages: Container[str]) -> str:
    """Markdown: the verdict, a table of the arms, the parameters that differ from the preset, and links.

    Without a comparison among the `stages` there are only parameters and links.
    """
    links = [f"[pretraining curves]({runs_page('', experiment, PRETRAINING, charts=True).lstrip('/')})"]
    if COMPARISON_STAGE in stages:
        links.insert(0, f"[report]({run_page('', experiment, run, REPORT.name).lstrip('/')})")
    if address := _flow_run():
        links.append(f"[flow run in Prefect]({address})")
    # MLflow's table shows the beginning as plain text, its page the first lines.
    verdict, table = result() if COMPARISON_STAGE in stages else ("", "")
    return "\n\n".join(filter(None, (verdict, " · ".join(links), table, _changes())))


def _rows() -> pd.DataFrame:
    return from_csv(FOLDER / "comparison.csv")


def _leading(rows: pd.DataFrame) -> Iterator[Any]:
    return iter(headline(rows).itertuples())


def _validation() -> dict[str, tuple[float, float]]:
    """Arm -> mean and standard error of its validation loss."""
    return validation_losses(read_json(FOLDER / "metrics.json"))


def result() -> tuple[str, str]:
    """The verdict, and in Markdown the arms by protocols: per cent, with the difference to the baseline."""
    rows = _rows()
    table: dict[str, dict[str, str]] = {}
    for row in _leading(rows):
        apart = f" ({points(row.difference)})" if pd.notna(row.difference) else ""
        table.setdefault(row.arm, {})[label_of(row.protocol)] = f"{percent(row.mean, row.se)}{apart}"
    if not has_labels(rows):
        for arm, numbers in _validation().items():
            table.setdefault(arm, {})["validation loss"] = loss(*numbers)
    heads = list(dict.fromkeys(head for cells in table.values() for head in cells))
    lines = [["arm", *heads], ["---"] * (len(heads) + 1)]
    lines += [[arm, *(cells.get(head, "") for head in heads)] for arm, cells in table.items()]
    return " ".join(sentences(rows)), "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _changes() -> str:
    try:
        preset, changes = changes_to_preset("params.yaml")
    except (ValueError, OSError) as error:
        return f"Parameters: {one_line(error)}"
    lines = [f"- `{name}`: {_text(before)} → {_text(after)}" for name, (before, after) in changes.items()]
    return (
        "\n".join((f"Parameters that differ from preset {preset}:\n", *lines))
        if lines
        else f"Parameters: preset {preset}"
    )


def _text(value: Any) -> str:
    return redacted(str(value))[:200]


def _flow_run() -> str:
    """The page of the Prefect flow run in which this process works; empty outside of one."""
    server, run = os.environ.get("PREFECT_API_URL", "").removesuffix("/api"), os.environ.get(RUN_VARIABLE)
    return f"{without_user(server)}/runs/flow-run/{run}" if server and run else ""
