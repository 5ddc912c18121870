"""Executions that MLflow does not know, because no replay came after them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from jobs.state import STATE_FOLDER
from pipeline.doctor import lock_file
from pipeline.doctor.apart import apart
from pipeline.doctor.dvc_locks import is_at_work
from pipeline.doctor.findings import Finding
from pipeline.doctor.trees import trees
from pipeline.experiments import hold
from pipeline.graph import Graph
from pipeline.running import at
from pipeline.tracking.client import FINISHED, KILLED
from pipeline.tracking.executions import pending
from pipeline.tracking.keys import state_of
from pipeline.tracking.replay import replay
from pipeline.tracking.writer import Replayed


def unreplayed_records(tree: Path, *, repair: bool) -> Iterator[Finding]:
    """Records that a replay would write. A state that is not complete is replayed as a killed walk."""
    names = _unreplayed(tree)
    if not names or is_at_work(tree):
        return
    done = "repair replays them"
    if repair:
        with hold(tree):
            apart(replay_of, tree, trees()[tree], KILLED if Graph(tree).affected() else FINISHED)
        done = "not replayed: `semmae track` there does it later" if _unreplayed(tree) else "replayed"
    yield from (Finding(f"{tree}", "executions that MLflow does not know", done, name) for name in names)


def replay_of(tree: Path, experiment: str, status: str) -> Replayed:
    """Replay a tree as its experiment."""
    with at(tree, experiment):
        return replay(status=status)


def _unreplayed(tree: Path) -> list[str]:
    if not any((tree / STATE_FOLDER / "records").glob("*.json")) or lock_file.fault_of(tree / "dvc.lock"):
        return []
    with contextlib.chdir(tree):
        done, broken = pending(state_of().entries)
    return sorted((*done, *broken))
