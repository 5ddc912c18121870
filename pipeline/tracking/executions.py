"""Records of executions, which stages leave for MLflow: those that a replay writes, and what is noted of them afterwards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jobs.dvc_lock import other_outs
from jobs.notes import read_note, write_note
from jobs.state import own_state
from pipeline.tracking.client import FINISHED
from pipeline.tracking.keys import State, key_of
from pipeline.tracking.stage_runs import missing_outs

Record = Mapping[str, Any]


class Pending(NamedTuple):
    """The records, by stage, that MLflow does not have yet. done: DVC recorded the result. broken: failed or killed."""

    done: Mapping[str, Record]
    broken: Mapping[str, Record]


def pending(entries: Mapping[str, Mapping[str, Any]]) -> Pending:
    """The records of the current folder that a replay writes; `entries` are those of dvc.lock.

    A record may have no result in dvc.lock, or an older one, because DVC was killed first. It is left out: the next
    execution of the stage overwrites it.
    """
    records = {path.stem: read_note(path) for path in sorted(records_folder().glob("*.json"))}
    done = {
        name: record
        for name, record in records.items()
        if record["status"] == FINISHED
        and name in entries
        and not (other_outs(entries[name]) or missing_outs(entries[name]))
    }
    return Pending(done, {name: record for name, record in records.items() if record["status"] != FINISHED})


def note_replayed(state: State, done: Mapping[str, Record]) -> None:
    """Note the last execution of each stage, for `semmae explain`.

    `entry` is what that execution recorded, `state` what dvc.lock has now, which may have been restored, and `previous` the
    `state` before the execution.
    """
    for name, entry in state.entries.items():
        path = executions() / f"{name}.json"
        noted = read_note(path)
        if name in done:
            previous = noted.get("state", noted.get("entry", {}))
            key = state.keys[name]
            write_note(path, {**done[name], "key": key, "entry": entry, "state": entry, "previous": previous})
        elif noted and key_of(name, noted.get("state", {})) != state.keys[name]:
            write_note(path, {**noted, "state": entry})


def executions() -> Path:
    """The folder of the notes on the last successful execution of each stage, with the key of its result."""
    return own_state() / "executions"


def records_folder() -> Path:
    """The folder of the records that no replay has written yet."""
    return own_state() / "records"
