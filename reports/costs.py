"""What every stage cost: time, images a second and memory, as a page and as CSV.

They lie beside the report and are no outs of DVC: two executions of the same job differ in them, and what depends on an
out must not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from jobs.dvc_lock import stage_entries
from pipeline.tracking.replay import executions, key_of
from reports.page import Cell, Section, facts, page, table
from shards.files import read_json, write_text

COLUMNS = (
    "stage",
    "seconds",
    "cpu_seconds",
    "images",
    "images_per_second",
    "peak_mib",
    "device",
    "precision",
    "torch",
    "key",
)
HEADS = (
    "stage",
    "time, s",
    "CPU time, s",
    "images",
    "images/s",
    "memory, MiB",
    "device",
    "precision",
    "torch",
    "MLflow key",
)
UNKNOWN = "–"


@dataclass(frozen=True)
class Cost:
    """What was noted about the execution that made a stage's result; an empty mapping where it was restored."""

    stage: str
    key: str
    noted: Mapping[str, Any]

    @property
    def cells(self) -> list[Any]:
        """The values of `COLUMNS`, None where nothing was noted."""
        rate = None
        if self.noted.get("image_seconds"):
            rate = self.noted["images"] / self.noted["image_seconds"]
        found = {**self.noted, "stage": self.stage, "key": self.key, "images_per_second": rate}
        return [found.get(name) for name in COLUMNS]


def read_costs(lock_file: str | Path = "dvc.lock") -> list[Cost]:
    """One for every stage of dvc.lock, in its order. What an execution noted counts while its result is the current one."""
    costs = []
    for stage, entry in stage_entries(Path(lock_file)).items():
        costs.append(Cost(stage, key := key_of(stage, entry), noted(stage, key)))
    return costs


def noted(stage: str, key: str) -> Mapping[str, Any]:
    """The record of the execution that made the result `key`; empty where none is here."""
    found = read_json(path) if (path := executions() / f"{stage}.json").is_file() else {}
    return found if found.get("key") == key else {}


def to_csv(costs: Sequence[Cost]) -> str:
    """`COLUMNS`, empty where nothing was noted."""
    lines = [",".join(COLUMNS)]
    for cost in costs:
        cells = ("" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in cost.cells)
        lines.append(",".join(f'"{cell}"' if "," in cell else cell for cell in cells))
    return "\n".join(lines) + "\n"


def render(costs: Sequence[Cost]) -> str:
    """The page as HTML."""
    computed = [cost.noted for cost in costs if cost.noted]
    hours = sum(found["seconds"] for found in computed) / 3600
    peak = max((found["peak_mib"] for found in computed), default=0.0)
    body = [[Cell(_text(cell), cell, _style(column)) for column, cell in enumerate(cost.cells)] for cost in costs]
    caption = (
        "The execution that made the result which lies here. A stage without numbers was restored from the cache; MLflow "
        "has its first execution. images/s counts each pass over the images, start-up excluded."
    )
    return page(
        title="What every stage cost",
        lead="Time, speed and memory of the pipeline's stages.",
        verdict=[
            f"{len(computed)} of {len(costs)} stages were computed here, in {hours:.2f} hours of stage time with at most "
            f"{peak:,.0f} MiB in one process."
        ],
        facts=facts(
            [("stages", str(len(costs))), ("hours", f"{hours:.2f}"), ("peak", f"{peak:,.0f} <small>MiB</small>")]
        ),
        sections=[Section("stages", "Stages", "Stages", table(HEADS, body, caption=caption, style="dense"))],
        foot='<p><a href="report.html">The report</a>; the same numbers: <a href="costs.csv">costs.csv</a>.</p>',
    )


def write_costs(folder: Path) -> None:
    """Write `costs.html` and `costs.csv` into `folder`."""
    costs = read_costs()
    write_text(folder / "costs.html", render(costs))
    write_text(folder / "costs.csv", to_csv(costs))


def _text(cell: Any) -> str:
    if cell is None:
        return UNKNOWN
    return f"{cell:,.1f}" if isinstance(cell, float) else escape(str(cell))


def _style(column: int) -> str:
    return "text" if COLUMNS[column] in ("device", "precision", "torch", "key") else ""
