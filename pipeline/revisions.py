"""The differences between two commits, branches or DVC experiments: parameters, data, code and results."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from config.presets import flatten
from config.redaction import one_line
from jobs.dvc_lock import is_code, stage_names
from pipeline.graph import changed_inputs
from pipeline.tracking.keys import DIGEST_STAGE

METRICS, LOCK, GRAPH, WORKSPACE = "report/metrics.json", "dvc.lock", "dvc.yaml", "workspace"
# Errors and intervals: they differ whenever their value does.
LEFT_OUT = ("/se", "/low", "/high", "_se", "_low", "_high")


class Change(NamedTuple):
    """A name whose value differs between two revisions; None if a revision does not have it."""

    name: str
    before: Any
    after: Any


class Revision(NamedTuple):
    """params: leaf -> value. inputs: path of the prepared data, or of a stage's code -> MD5. metrics: name -> number."""

    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    metrics: Mapping[str, float]


def read_revision(rev: str) -> Revision:
    """Read a commit, branch, tag, DVC experiment, or `workspace`; ValueError if it does not exist or has no results."""
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    at = None if rev == WORKSPACE else rev
    try:
        params = dvc.api.params_show("params.yaml", rev=at)
        lock, graph = (YAML(typ="safe", pure=True).load(dvc.api.read(path, rev=at)) for path in (LOCK, GRAPH))
        metrics = dvc.api.metrics_show(METRICS, rev=at)
    except (DvcException, SCMError, OSError) as error:
        raise ValueError(
            f"{rev}: {one_line(error)}; name a commit or experiment that `dvc repro` "
            "has finished, with its dvc.lock committed"
        ) from None
    if not metrics:
        raise ValueError(f"{rev}: no {METRICS}; run `dvc repro` there, or `dvc fetch --all-commits` from your remote")
    names = set(stage_names(graph["stages"], params))
    stages = {name: entry for name, entry in lock["stages"].items() if name in names}
    return Revision(dict(flatten(params)), _inputs(stages), dict(flatten(metrics)))


def _inputs(stages: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the prepared data, and of all code dependencies of the stages."""
    inputs = {out["path"]: out["md5"] for out in stages.get("prepare_data", {}).get("outs", [])}
    for stage in (stage for name, stage in stages.items() if name != DIGEST_STAGE):
        inputs |= {dep["path"]: dep["md5"] for dep in stage.get("deps", []) if is_code(dep["path"])}
    return inputs


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The names whose values differ, sorted."""
    names = sorted(before.keys() | after.keys())
    return [Change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def shown_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics without their errors and intervals."""
    return {name: value for name, value in metrics.items() if not name.endswith(LEFT_OUT)}


def print_changes(before: str, after: str, console: Console | None = None) -> None:
    """Print a table of changed parameters, one of inputs and one of results."""
    console = console or Console()
    one, other = read_revision(before), read_revision(after)
    for title, rows in (
        ("parameters", changes(one.params, other.params)),
        ("data and code", _changed_inputs(one.inputs, other.inputs)),
        ("results", changes(shown_metrics(one.metrics), shown_metrics(other.metrics))),
    ):
        if rows:
            console.print(_table(title, rows, before, after))
        else:
            console.print(f"{title}: the same in {before} and {after}")


def _changed_inputs(before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    pairs = [(path, old or "absent", new or "absent") for path, old, new in changes(before, after)]
    rows = {row for pair in pairs for row in changed_inputs(*pair)}
    return sorted(Change(f"code {path}" if is_code(path) else path, old, new) for path, old, new in rows)


def _table(title: str, rows: list[Change], before: str, after: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    table.add_column("name", overflow="fold")
    for name in (before, after, "change"):
        table.add_column(name, justify="right", overflow="fold")
    for change in rows:
        table.add_row(change.name, *map(_text, (change.before, change.after)), _difference(change))
    return table


def _text(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _difference(change: Change) -> str:
    numbers = all(isinstance(value, int | float) for value in (change.before, change.after))
    return f"{change.after - change.before:+.4g}".replace("-", "−") if numbers else ""
