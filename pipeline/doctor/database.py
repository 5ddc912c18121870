"""The runs in MLflow: a damaged local database, runs that a killed replay left half-written, and trainings that are gone.

The local database is a cache of what DVC holds. A damaged one is moved aside, not repaired, and what lies in the trees is
replayed into a new one.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from config.redaction import one_line, redacted
from jobs.state import STATE_FOLDER, state_folder
from pipeline.doctor import lock_file
from pipeline.doctor.apart import apart
from pipeline.doctor.dvc_locks import is_at_work
from pipeline.doctor.findings import Finding
from pipeline.doctor.records import replay_of
from pipeline.doctor.trees import trees
from pipeline.running import at
from pipeline.tracking.client import (
    FINISHED,
    client,
    database,
    database_lock,
    fault_of,
    is_as_left,
    is_local,
    note_left,
    runs_of,
    says_running,
    size_and_time_of,
    tracking_uri,
)
from pipeline.tracking.comparison import differing_runs
from pipeline.tracking.keys import state_of
from pipeline.tracking.live import lost_trainings
from pipeline.tracking.replay import forget_last, last_written
from pipeline.tracking.writer import half_written_runs

# In what MLflow or SQLite says of a database that is sound: of another version, or not to be had at this moment.
NO_DAMAGE = (
    "out-of-date database schema",
    "database is locked",
    "unable to open",
    "readonly",
    "disk I/O error",
    "disk is full",
)
REST = "runs of other states and registered models are only in the one that is moved; `semmae track` replays a state"


def tracking_database(*, repair: bool) -> Iterator[Finding]:
    """A damaged local database is moved aside and replayed; half-written runs of killed replays are deleted.

    The run of a training that is gone, as its follower is, gets its last rows and its status. MLflow takes seconds to load:
    it is not asked about a database that is as our own processes left it, and in which no run is RUNNING; SQLite is.
    """
    path = database()
    if path is not None:
        is_known, before = is_as_left(path), size_and_time_of(path)
        if fault := fault_of(path, whole=True) or ("" if is_known else apart(fault_of_runs, path, trees())):
            done = _set_aside(path) if repair else f"repair moves it into {STATE_FOLDER}"
            yield Finding(f"{path}", f"damaged ({fault})", f"{done}; {REST}")
            return
        note_left(before)
    if says_running(path) if path is not None else not is_local():
        place = redacted(tracking_uri())
        done = "deleted, the next replay writes it whole" if repair else "repair deletes it"
        for name in apart(half_written_runs, repair):
            yield Finding(place, "run that says RUNNING and whose writer is gone", done, name)
        done = "brought to what it left" if repair else "repair brings it to what it left"
        for name in apart(lost_trainings, repair):
            yield Finding(place, "run that says RUNNING and whose training is gone", done, name)


def fault_of_runs(path: Path, folders: Mapping[Path, str]) -> str:
    """What is wrong with the runs of a database; empty where MLflow reads it and the states of all trees agree with it.

    Raises ValueError for a database that is sound and cannot be read now, or by this version of MLflow.
    """
    try:
        with client() as mlflow_client:
            experiments = [one.experiment_id for one in mlflow_client.search_experiments()]
            runs = {run.info.run_id: run for run in runs_of(mlflow_client, experiments)}
    except Exception as error:
        reason = one_line(error)
        if any(words in reason for words in NO_DAMAGE):
            raise ValueError(
                f"{path}: {reason[:120]}; where that does not help, move it away and run `semmae track`"
            ) from None
        return f"MLflow cannot read it: {reason[:120]}"
    differing = []
    for tree, experiment in folders.items():
        if not lock_file.fault_of(tree / "dvc.lock"):
            with at(tree, experiment):
                state = state_of()
                differing += differing_runs(runs, state, last_written(state.key))
    names = sorted(set(differing))
    return f"runs that differ from dvc.lock and its outs: {', '.join(names)}"[:250] if names else ""


def _set_aside(path: Path) -> str:
    """Move a database out of the way, with what SQLite keeps beside it, and replay the trees into a new one."""
    aside = state_folder() / f"{path.name}.{time.time_ns()}"
    with database_lock():
        for file in sorted(path.parent.glob(f"{path.name}*")):
            shutil.move(file, aside.with_name(file.name.replace(path.name, aside.name)))
    failed = []
    for tree, experiment in trees().items():
        with at(tree, experiment):
            forget_last()
            is_free = not lock_file.fault_of(tree / "dvc.lock") and not is_at_work(tree)
            if is_free and state_of().entries and not apart(replay_of, tree, experiment, FINISHED).pipeline:
                failed.append(str(tree))
    return f"moved to {aside}, {'not replayed: ' + ', '.join(failed) if failed else 'replayed'}"
