"""Replay what DVC has recorded into MLflow: a run for a state of the pipeline, and below it one for every stage.

Stages do not import MLflow. They leave metrics and history as outs and a record of their execution, and one process replays
them. If the tracking server is down, the replay warns, and the next one catches up, because it looks for what MLflow lacks
and not for what has just happened. A stage that was restored from the cache gets a run too, with a link to the run that
computed it, so that a comparison of arms has no gaps.
"""

import os
import shlex
from dataclasses import asdict
from pathlib import Path

from config.redaction import one_line, redacted
from jobs.notes import read_note, write_note
from jobs.state import own_state
from jobs.supervision import EXPERIMENT_VARIABLE
from pipeline.tracking.client import (
    FAILED,
    FINISHED,
    FIRST_EXPERIMENT,
    KILLED,
    client,
    database,
    is_local,
    tracking_uri,
)
from pipeline.tracking.executions import note_replayed, pending, records_folder
from pipeline.tracking.keys import State, state_of
from pipeline.tracking.stage_runs import missing_outs
from pipeline.tracking.writer import Replayed, Writer


def replay(*, status: str = FINISHED, ask: bool = True) -> Replayed:
    """Write the state in dvc.lock where MLflow does not have it yet, and the executions that failed or were killed.

    status: FAILED or KILLED for a walk that did not reach its end; then only what it executed is written. ask: False trusts
    the note of the last replay of this tree where that wrote this very state, and MLflow is not asked. Any fault of the
    tracking server is one printed warning: nothing is lost, because the next call misses the same runs.
    """
    try:
        return _replay(status, ask)
    except Exception as error:
        reason = f"{redacted(tracking_uri())}: {one_line(error)[:300]}"
        print(f"warning: tracking: {reason}; MLflow lacks these runs until `{_command()}`", flush=True)
        return Replayed()


def _command() -> str:
    """The command that replays this tree."""
    experiment = os.environ.get(EXPERIMENT_VARIABLE, "")
    return (
        f"cd {shlex.quote(os.getcwd())} && {EXPERIMENT_VARIABLE}={experiment} semmae track"
        if experiment
        else "semmae track"
    )


def _replay(status: str, ask: bool) -> Replayed:
    state = state_of()
    done, broken = pending(state.entries)
    is_finished = status == FINISHED
    if not ask and is_finished and not done and not broken and (noted := last_written(state.key)):
        return noted
    with client() as mlflow_client:
        writer, written = Writer(mlflow_client), Replayed()
        if is_finished and not (written := writer.find(state.key) or Replayed()).pipeline:
            asked, state = state.key, _of_outs_here(state)
            known = writer.find(state.key) if state.key != asked else None
            if state.entries:
                written = known or writer.write(FINISHED, state, state.entries, done, {})
        if broken or (done and not is_finished):
            is_killed = any(record["status"] == KILLED for record in broken.values())
            ended = status if not is_finished else KILLED if is_killed else FAILED
            of_walk = writer.write(ended, state, () if is_finished else done, done, broken)
            written = written if written.pipeline else of_walk
        for record in done.values():
            writer.close(record)
    if is_finished and written.pipeline:
        write_note(_note(), {"state": state.key, "uri": tracking_uri(), "written": asdict(written)})
    note_replayed(state, done)
    for name in (*done, *broken):
        (records_folder() / f"{name}.json").unlink(missing_ok=True)
    return written


def _of_outs_here(state: State) -> State:
    """The state of the stages whose outs lie here; prints which do not."""
    absent = [name for name, entry in state.entries.items() if missing_outs(entry)]
    if absent:
        print(f"tracking: leaves out {', '.join(absent)}: outs are not here; `dvc pull` or `semmae run` brings them")
    return state.without(absent)


def last_written(state: str) -> Replayed | None:
    """What the last replay of this tree wrote, if that was this very state and went to where it would go now."""
    note = read_note(_note())
    if not note or (note["state"], note["uri"]) != (state, tracking_uri()) or (is_local() and database() is None):
        return None
    return Replayed(**note["written"])


def last_experiment() -> str:
    """The id of our experiment, as the last replay of this tree noted it; else the first of our own database, or empty."""
    note = read_note(_note())
    if note and note["uri"] == tracking_uri():
        return note["written"]["experiment"]
    return FIRST_EXPERIMENT if is_local() else ""


def forget_last() -> None:
    """Forget it: the next replay of this tree asks MLflow."""
    _note().unlink(missing_ok=True)


def _note() -> Path:
    return own_state() / "replayed.json"
