"""`semmae runs`: experiments and their commits in a table that fits a terminal; `dvc exp show` has a column for each number."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.protocols import HEADLINE, label_of
from pipeline.graph import leaves
from pipeline.revisions import METRICS, WORKSPACE
from reports.comparison import percent

PARAMS = "params.yaml"
# Columns below which the table is no narrower: what a terminal breaks can be read, and what a table cuts cannot.
LEAST_COLUMNS = 80
# The columns of their own.
OWN_COLUMNS = ("arms.names", "seeds")


class Run(NamedTuple):
    """The files of this tree, a commit, or an experiment of it. changes: leaf -> value where it differs from its commit."""

    name: str
    created: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    changes: Mapping[str, Any]
    problem: str


def runs(root: Path = Path()) -> Iterator[Run]:
    """This tree, its commit, and every commit that has experiments, each followed by these."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        commits = {repo.scm.get_rev(): None, **dict.fromkeys(repo.experiments.ls(all_commits=True))}
        states = repo.experiments.show(revs=[rev for rev in commits if rev != WORKSPACE])
    head: Mapping[str, Any] = {}
    for state in states:
        if state.rev != WORKSPACE:
            head = head or _params(state)
    for state in states:
        base = head if state.rev == WORKSPACE else _params(state)
        yield _run(state, base)
        for group in state.experiments or ():
            yield from (_run(one, base, indent="  ") for one in group.revs)


def _run(state: Any, base: Mapping[str, Any], *, indent: str = "") -> Run:
    params = _params(state)
    changes = {key: params.get(key) for key in {**base, **params} if base.get(key) != params.get(key)}
    created = f"{state.data.timestamp:%Y-%m-%d %H:%M}" if state.data and state.data.timestamp else ""
    metrics = state.data.metrics.get(METRICS, {}).get("data", {}) if state.data else {}
    problem = " ".join(str(state.error.msg).split()) if state.error else ""
    name = state.name or (WORKSPACE if state.rev == WORKSPACE else state.rev[:7])
    return Run(indent + name, created, params, leaves(metrics, ""), changes, problem)


def _params(state: Any) -> Mapping[str, Any]:
    return leaves(state.data.params.get(PARAMS, {}).get("data", {}), "") if state.data else {}


def print_runs(root: Path = Path(), console: Console | None = None) -> None:
    """Print each of `runs` with the leading accuracies of its arms, when it was made, its seeds, and what it changes."""
    every = list(runs(root))
    shown = [name for name in HEADLINE if any(key.endswith(f"/{name}/mean") for run in every for key in run.metrics)]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, leading=1)
    table.add_column("run", no_wrap=True)
    for name in shown:
        table.add_column(label_of(name), justify="right", no_wrap=True)
    table.add_column("created, seeds, changed", overflow="fold")
    for run in every:
        arms = run.params.get("arms.names", ())
        columns = [["", *(_score(run.metrics, arm, name) for arm in arms)] for name in shown]
        changes = [f"{key}={value}" for key, value in run.changes.items() if key not in OWN_COLUMNS]
        seeds = ", ".join(map(str, run.params.get("seeds", ())))
        details = [run.created, f"seeds {seeds}", *changes, run.problem]
        lines = ([run.name, *(f"    {arm}" for arm in arms)], *columns, filter(None, details))
        # Text: a value may hold brackets, which are no markup.
        table.add_row(*(Text("\n".join(column)) for column in lines))
    console = console or Console(highlight=False)
    console.print(table, width=max(LEAST_COLUMNS, console.width), crop=False)


def _score(metrics: Mapping[str, float], arm: str, protocol: str) -> str:
    mean = metrics.get(f"{arm}/{protocol}/mean")
    return "" if mean is None else percent(mean, metrics.get(f"{arm}/{protocol}/se", math.nan))
