"""`semmae run`: the walk from a terminal, in the user's tree or in a worktree of its own."""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jobs.stage import Terminated
from jobs.supervision import EXPERIMENT_VARIABLE
from pipeline import experiments
from pipeline.display import shown
from pipeline.execution import CANCELLED, FAILED, Outcome, repeat
from pipeline.graph import Graph
from pipeline.parameters import is_as_here
from pipeline.scheduling.flow_run import FlowRun
from pipeline.scheduling.services import results_page, run_page
from pipeline.tracking import client
from pipeline.tracking.keys import COMPARISON_STAGE
from pipeline.tracking.replay import replay
from pipeline.walk import Walk
from pipeline.worktree import restore


@contextlib.contextmanager
def at(root: Path, name: str) -> Iterator[None]:
    """Make the tree at `root` the current folder, and `name` the experiment's name for tracking (empty: none)."""
    before = os.environ.get(EXPERIMENT_VARIABLE)
    if name:
        os.environ[EXPERIMENT_VARIABLE] = name
    try:
        with contextlib.chdir(root):
            yield
    finally:
        os.environ.pop(EXPERIMENT_VARIABLE, None)
        if before is not None:
            os.environ[EXPERIMENT_VARIABLE] = before


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated at SIGTERM: like an interrupt, it ends the running stages in order and records them."""

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def status_of(outcomes: Sequence[Outcome]) -> str:
    """The status in MLflow of a walk with these outcomes."""
    if any(outcome.status == CANCELLED for outcome in outcomes):
        return client.KILLED
    return client.FINISHED if all(outcome.is_done for outcome in outcomes) else client.FAILED


def place_for(document: Any, *, name: str, preset: str) -> tuple[Path, str]:
    """(tree, experiment): this tree and no experiment for the parameters of params.yaml, else a worktree.

    With a name it is an experiment in any case.
    """
    if not name and is_as_here(document):
        return Path.cwd(), ""
    name = name or f"{(preset or 'run').replace(' ', '-')}-{time.strftime('%m%d-%H%M%S')}"
    folder = experiments.prepare(name, document, preset=preset)
    # Held: this would overwrite the files of a walk in it.
    with experiments.hold(folder):
        restore(folder)
    return folder, name


def run_plainly(
    document: Any,
    *,
    name: str = "",
    preset: str = "",
    targets: Sequence[str] = (),
    force: bool = False,
    flow_run: FlowRun | None = None,
) -> Sequence[Outcome]:
    """Walk, verify, save, replay into MLflow; returns the outcomes of all stages. Raises ValueError as `Walk` does.

    The replay comes last: its warning ends the output. flow_run: shows the walk in Prefect; the caller closes it.
    """
    root, name = place_for(document, name=name, preset=preset)
    if name:
        print(f"experiment {name} in {root}", flush=True)
    with experiments.hold(root) as held, at(root, name), terminable():
        walk = Walk(root, targets=targets, force=force, label=flow_run.id if flow_run else "")
        if flow_run:
            held.write(f"{flow_run.id}\n")
            held.flush()
            flow_run.show(walk, name)
        started = time.monotonic()
        outcomes: Sequence[Outcome] = []
        try:
            with shown(walk) as terminal:
                outcomes = walk.run([terminal, *([flow_run] if flow_run else [])])
            if all(outcome.is_done for outcome in outcomes):
                walk.verify()
                if name:
                    experiments.save(name)
                show_comparison(walk, root if name else Path())
            report(outcomes, root, time.monotonic() - started, name)
        finally:
            was_interrupted = bool(walk.stages) and not outcomes
            if was_interrupted:
                report(list(walk.finished.values()), root, time.monotonic() - started, name)
            written = replay(status=client.KILLED if was_interrupted else status_of(outcomes))
            if written.pipeline and (page := run_page(written.experiment, written.pipeline)):
                print(f"{'this run':<11} {page}")
            if flow_run:
                flow_run.show_results(written)
    return outcomes


def nothing_to_run(root: Path = Path(), *, targets: Sequence[str], force: bool, dry: bool) -> bool:
    """Whether everything in the tree at `root` is up to date; prints so, or, with `dry`, what would run."""
    graph = Graph(root, targets)
    stages = list(graph.stages) if force else graph.affected()
    if not stages:
        print("nothing to run: everything is up to date with parameters, code and data")
    elif dry:
        print(
            "\n".join(f"{name}{'' if name in graph.changes or force else ' (if its inputs change)'}" for name in stages)
        )
    return not stages


def show_comparison(walk: Walk, root: Path) -> None:
    """Print the comparison and the paths of all results, if the walk was to make them."""
    if COMPARISON_STAGE in walk.graph.stages:
        from reports.table import print_summary

        print_summary(root, results_page() or client.tracking_uri())


def report(outcomes: Sequence[Outcome], root: Path, seconds: float, name: str) -> None:
    """Print a summary, and for each failed stage its last lines and the command that repeats it."""
    counts = Counter(outcome.status for outcome in outcomes)
    summary = ", ".join(f"{count} {status}" for status, count in counts.items()) or "nothing to run"
    print(f"{len(outcomes)} stages in {seconds:.0f} s: {summary}", flush=True)
    for outcome in outcomes:
        if outcome.status == FAILED:
            print("\n".join(("", f"{outcome.stage} failed; the end of {outcome.log}:", *outcome.last_lines)))
            print(f"to repeat it: {repeat(outcome.stage, root)}")
    if name and all(outcome.is_done for outcome in outcomes):
        print(f"experiment {name}: `semmae runs` lists it, `dvc exp apply {name}` puts it here")
    elif name:
        print(f"experiment {name}: not done, see above; rerun with --name {name}: training resumes")
