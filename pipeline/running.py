"""`semmae run`: the walk from a terminal, in the user's tree or in a worktree of its own."""

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.stage import Terminated
from pipeline import experiments
from pipeline.execution import CANCELLED, FAILED, Outcome, command_of
from pipeline.graph import Graph
from pipeline.tracking.client import FAILED as FAILED_RUN
from pipeline.tracking.client import FINISHED as FINISHED_RUN
from pipeline.tracking.client import KILLED as KILLED_RUN
from pipeline.tracking.keys import EXPERIMENT_VARIABLE
from pipeline.tracking.replay import replay
from pipeline.walk import Walk


@contextlib.contextmanager
def at(root: Path, name: str) -> Iterator[None]:
    """Work in the tree at `root` as experiment `name` (empty: none): the current folder, and what tracking calls it."""
    before, variable = os.getcwd(), os.environ.get(EXPERIMENT_VARIABLE)
    os.chdir(root)
    if name:
        os.environ[EXPERIMENT_VARIABLE] = name
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop(EXPERIMENT_VARIABLE, None)
        if variable is not None:
            os.environ[EXPERIMENT_VARIABLE] = variable


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Take SIGTERM like an interrupt: what runs is ended in order, and recorded."""

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def status_of(outcomes: Sequence[Outcome]) -> str:
    """What MLflow calls a walk with these outcomes."""
    if any(outcome.status == CANCELLED for outcome in outcomes):
        return KILLED_RUN
    return FINISHED_RUN if all(outcome.is_done for outcome in outcomes) else FAILED_RUN


def repeat(stage: str, root: Path) -> str:
    """The command that runs one stage again, for people."""
    return f"cd {shlex.quote(str(root))} && dvc {shlex.join(command_of(stage)[3:])}"


def place_for(document: Any, *, name: str, preset: str) -> tuple[Path, str]:
    """(tree, experiment): this tree and no experiment for the parameters that lie here, else a worktree.

    A name makes an experiment of them in any case.
    """
    if not name and experiments.is_as_here(document):
        return Path.cwd(), ""
    name = name or f"{(preset or 'run').replace(' ', '-')}-{time.strftime('%m%d-%H%M%S')}"
    folder = experiments.prepare(name, document, preset=preset)
    # Held: a walk that is in it writes what this would replace.
    with experiments.hold(folder):
        experiments.restore(folder)
    return folder, name


def run_plainly(
    document: Any, *, name: str = "", preset: str = "", targets: Sequence[str] = (), force: bool = False
) -> Sequence[Outcome]:
    """Walk, replay into MLflow, verify, save; returns what became of the stages. Raises ValueError as `Walk` does."""
    root, name = place_for(document, name=name, preset=preset)
    if name:
        print(f"experiment {name} in {root}", flush=True)
    with experiments.hold(root), at(root, name), terminable():
        walk = Walk(root, targets=targets, force=force)
        started = time.monotonic()
        outcomes: Sequence[Outcome] = []
        try:
            outcomes = walk.run_all(lambda stage, line: print(f"[{stage}] {line}", flush=True))
        finally:
            replay(status=status_of(outcomes) if outcomes or not walk.stages else KILLED_RUN)
        if all(outcome.is_done for outcome in outcomes):
            walk.verify()
            if name:
                experiments.save(name)
        report(outcomes, root, time.monotonic() - started, name)
    return outcomes


def nothing_to_run(root: Path = Path(), *, targets: Sequence[str], force: bool, dry: bool) -> bool:
    """Whether the tree at `root` is as its params.yaml, code and data say, which is told; `dry` tells what is not."""
    graph = Graph(root, targets)
    stages = list(graph.stages) if force else graph.affected()
    if not stages:
        print("nothing to run: all is as parameters, code and data say")
    elif dry:
        print(
            "\n".join(
                f"{name}{'' if name in graph.changes or force else ' (if what it reads changes)'}" for name in stages
            )
        )
    return not stages


def report(outcomes: Sequence[Outcome], root: Path, seconds: float, name: str) -> None:
    """Print what ran, and for what failed its last lines and the command that repeats it."""
    counts: Mapping[str, int] = {
        status: sum(outcome.status == status for outcome in outcomes)
        for status in dict.fromkeys(outcome.status for outcome in outcomes)
    }
    told = ", ".join(f"{count} {status}" for status, count in counts.items()) or "nothing to run"
    print(f"{len(outcomes)} stages in {seconds:.0f} s: {told}", flush=True)
    for outcome in outcomes:
        if outcome.status == FAILED:
            print("\n".join(("", f"{outcome.stage} failed; the end of {outcome.log}:", *outcome.last_lines)))
            print(f"to repeat it: {repeat(outcome.stage, root)}")
    if name and all(outcome.is_done for outcome in outcomes):
        print(f"experiment {name}: dvc exp show; dvc exp apply {name}")
    elif name:
        print(f"experiment {name}: mend that; the same command with --name {name} goes on with it")
