"""What DVC has recorded, replayed into MLflow: a run for a state of the pipeline, and below it one for every stage.

Stages import no MLflow. They leave metrics and history as outs and a record of their execution, and one process replays
them: a lost or broken tracking server costs a warning, and the next replay catches up, for it looks at what is missing
and not at what just happened. A stage that was restored from the cache gets a run like one that was computed, with a
link to the run of its computation, so that a comparison of arms has no gaps.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.files import main_worktree, own_state, state_folder
from pipeline.graph import stage_entries
from pipeline.notes import read_note, write_note
from pipeline.params import read_yaml
from pipeline.presets import preset_of
from pipeline.redaction import one_line, redacted
from pipeline.stage_runs import changed_outs, git_tags, log_params, log_stage, numbers_of, other_outs, tags_of
from pipeline.supervision import identity, is_alive

EXPERIMENT = "semmae"
# Without it MLflow 3 opens the experiment as one of language models, with an empty page of traces.
KIND = {"mlflow.experimentKind": "custom_model_development"}
KEY_TAG, PIPELINE_TAG, WRITER_TAG, COMPUTED_TAG = "fingerprint", "semmae.pipeline", "semmae.writer", "computed_by"
PARENT_TAG = "mlflow.parentRunId"
# The stage that replays: its own entry in dvc.lock comes after it.
REPLAY_STAGE = "track_runs"
FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
EXPERIMENT_VARIABLE = "SEMMAE_EXPERIMENT"
PAGE = 1000
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


@dataclass(frozen=True)
class Replayed:
    """What a replay wrote: the runs of stages by name, under the run of the pipeline."""

    experiment: str = ""
    pipeline: str = ""
    runs: Mapping[str, str] = field(default_factory=dict)


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite database under the main worktree, by absolute path."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{main_worktree() / 'tracking' / 'mlflow.db'}"


def database() -> Path | None:
    """The file of a local tracking database, where there is one."""
    path = Path(tracking_uri().removeprefix("sqlite:///"))
    return path if tracking_uri().startswith("sqlite:///") and path.is_file() else None


def fault_of(path: Path) -> str:
    """What SQLite finds wrong with a database; empty for a sound one, and for one that somebody writes at this moment.

    What a killed writer had half written is rolled back first, as by every reader. A value has no checksum: `changed_runs`.
    """
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as found:
        try:
            told = found.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.OperationalError as error:
            told = "ok" if "locked" in str(error) else str(error)
        except sqlite3.DatabaseError as error:
            told = str(error)
    return "" if told == "ok" else " ".join(told.split())[:120]


def replay(lock_file: str | Path = "dvc.lock", *, status: str = FINISHED, ask: bool = True) -> Replayed:
    """Write the state in dvc.lock where MLflow does not have it yet, and what executions failed or were terminated.

    status: FAILED or KILLED for a walk that did not reach its end; then only what it executed is written. ask: whether the
    server is asked what it has also where the last replay of this tree wrote this very state. Any fault of the tracking
    server is one printed warning: nothing is lost, because the next call finds the same runs missing.
    """
    try:
        return _replay(Path(lock_file), status, ask)
    except Exception as error:
        told = f"{redacted(tracking_uri())}: {one_line(error)[:300]}"
        print(f"warning: tracking: {told}; nothing is lost, `semmae track` replays it later", flush=True)
        return Replayed()


def _replay(lock_file: Path, status: str, ask: bool) -> Replayed:
    entries = _entries(lock_file)
    records = {path.stem: read_note(path) for path in sorted(_records().glob("*.json"))}
    done = {name: records[name] for name in recorded(records, entries)}
    broken = {name: record for name, record in records.items() if record["status"] != FINISHED}
    keys, state = _keys(entries)
    if not ask and not records and status == FINISHED and (before := _noted(state)):
        return before
    with client() as found:
        writer = _Writer(found)
        written = Replayed()
        if status == FINISHED and entries:
            written = writer.find(state) or writer.write(state, FINISHED, entries, keys, done, {})
        if broken or (status != FINISHED and done):
            ran = {name: entries[name] for name in done} if status != FINISHED else {}
            ended = KILLED if any(record["status"] == KILLED for record in broken.values()) else FAILED
            told = writer.write("", ended if status == FINISHED else status, ran, keys, done, broken)
            written = written if written.pipeline else told
    if status == FINISHED and written.pipeline:
        write_note(_note(), {"state": state, "uri": tracking_uri(), "written": asdict(written)})
    for name, entry in entries.items():
        path = executions() / f"{name}.json"
        noted = read_note(path)
        # `entry` is what an execution made, `state` what dvc.lock had since, which may have been restored.
        if name in done:
            previous = noted.get("state", noted.get("entry", {}))
            write_note(path, {**done[name], "key": keys[name], "entry": entry, "state": entry, "previous": previous})
        elif noted and key_of(name, noted.get("state", {})) != keys[name]:
            write_note(path, {**noted, "state": entry})
    for name in (*done, *broken):
        (_records() / f"{name}.json").unlink(missing_ok=True)
    return written


def _noted(state: str) -> Replayed | None:
    """What the last replay of this tree wrote, where it was this very state and went to where it would go now."""
    note, uri = read_note(_note()), tracking_uri()
    if not note:
        return None
    is_there = not uri.startswith("sqlite:///") or database() is not None
    return Replayed(**note["written"]) if (note["state"], note["uri"]) == (state, uri) and is_there else None


def recorded(records: Mapping[str, Mapping[str, Any]], entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The executions that ended well and that DVC recorded too.

    Where it was killed before, dvc.lock has an older result, or none: the next execution takes their place.
    """
    finished = [name for name, record in records.items() if record["status"] == FINISHED and name in entries]
    return [name for name in finished if not other_outs(entries[name])]


def _entries(lock_file: Path) -> dict[str, Mapping[str, Any]]:
    return {name: entry for name, entry in stage_entries(lock_file).items() if name != REPLAY_STAGE}


def _keys(entries: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, str], str]:
    """The key of each stage, and that of the whole state."""
    keys = {name: key_of(name, entry) for name, entry in entries.items()}
    return keys, key_of(os.environ.get(EXPERIMENT_VARIABLE, ""), keys)


def changed_runs(lock_file: str | Path = "dvc.lock", *, remove: bool = False) -> list[str]:
    """The stages of the state in dvc.lock whose runs say other numbers than their outs.

    remove: delete all runs of this state then, so that the next replay writes them.
    """
    entries = _entries(Path(lock_file))
    with client() as found:
        writer = _Writer(found)
        written = writer.find(_keys(entries)[1])
        runs = {name: run for name, run in written.runs.items() if name in entries} if written else {}
        changed = []
        for name, run in runs.items():
            if changed_outs(entries[name]):
                continue  # No measure of what a run says.
            said = found.get_run(run).data.metrics
            if any(said.get(key) != value for key, value in numbers_of(entries[name]).items()):
                changed.append(name)
        if written and changed and remove:
            writer.delete(written.pipeline)
            _note().unlink(missing_ok=True)
    return changed


class _Writer:
    """The experiment of the tracking server, and the runs that this process writes into it."""

    def __init__(self, found: Any) -> None:
        self.client = found
        self.experiment = _experiment(found)
        self.name = f"{socket.gethostname()}/{identity(os.getpid())}"

    def find(self, state: str) -> Replayed | None:
        """The finished run of a state of the pipeline, and those of its stages."""
        for run in self._search(f"tags.`{PIPELINE_TAG}` = '{state}'"):
            if run.info.status == FINISHED:
                stages = self._search(f"tags.`{PARENT_TAG}` = '{run.info.run_id}'")
                runs = {stage.info.run_name: stage.info.run_id for stage in stages}
                return Replayed(self.experiment, run.info.run_id, runs)
        return None

    def write(
        self,
        state: str,
        status: str,
        entries: Mapping[str, Mapping[str, Any]],
        keys: Mapping[str, str],
        done: Mapping[str, Mapping[str, Any]],
        broken: Mapping[str, Mapping[str, Any]],
    ) -> Replayed:
        """A run of the pipeline over runs of `entries` and of `broken` executions; `done` are the records of the former."""
        known = self._known_keys()
        started = min((record["started"] for record in (*done.values(), *broken.values())), default=time.time())
        common = {**git_tags(), **_experiment_tags()}
        tags = {**common, PIPELINE_TAG: state, "stage": "pipeline"}
        pipeline = self._start(os.environ.get(EXPERIMENT_VARIABLE) or "pipeline", tags, started)
        parameters = Path("params.yaml")
        if parameters.is_file():
            log_params(self.client, pipeline, read_yaml(parameters))
        runs = {}
        for name, entry in entries.items():
            record, key = done.get(name), keys[name]
            tags = {**common, KEY_TAG: key, PARENT_TAG: pipeline, **tags_of(name, record, entry)}
            if record is None and key in known:
                tags[COMPUTED_TAG] = known[key]
            runs[name] = self._start(name, tags, record["started"] if record else time.time())
            log_stage(self.client, runs[name], entry, record)
            self._end(runs[name], FINISHED, record["started"] + record["seconds"] if record else time.time())
        for name, record in broken.items():
            tags = {**common, PARENT_TAG: pipeline, **tags_of(name, record)}
            runs[name] = self._start(name, tags, record["started"])
            self._end(runs[name], record["status"], record["started"] + record["seconds"])
        self._end(pipeline, status, time.time())
        return Replayed(self.experiment, pipeline, runs)

    def half_written(self) -> list[Any]:
        """The runs of replays of this machine that died on the way."""
        dead = []
        for run in self._search("attributes.status = 'RUNNING'"):
            host, _, writer = run.data.tags.get(WRITER_TAG, "").partition("/")
            if host == socket.gethostname() and not is_alive(writer):
                dead.append(run)
        return dead

    def repair(self) -> list[Any]:
        """Delete and return them. The next replay writes them whole."""
        dead = self.half_written()
        for run in dead:
            self.delete(run.info.run_id)
        return dead

    def delete(self, run_id: str) -> None:
        """Delete a run and those below it."""
        for stage in self._search(f"tags.`{PARENT_TAG}` = '{run_id}'"):
            self.client.delete_run(stage.info.run_id)
        self.client.delete_run(run_id)

    def _known_keys(self) -> dict[str, str]:
        """Key -> the run that computed it, or the first that has it. Half-written runs are removed before."""
        self.repair()
        keys: dict[str, str] = {}
        for run in self._search(f"tags.`{KEY_TAG}` != ''"):
            if run.info.status == FINISHED:
                first = run.data.tags.get("cache_hit") == "false"
                if first or run.data.tags[KEY_TAG] not in keys:
                    keys[run.data.tags[KEY_TAG]] = run.info.run_id
        return keys

    def _search(self, condition: str) -> Iterator[Any]:
        token = None
        while True:
            page = self.client.search_runs([self.experiment], condition, max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _start(self, name: str, tags: Mapping[str, str], started: float) -> str:
        tags = {key: redacted(value) for key, value in {**tags, WRITER_TAG: self.name}.items()}
        run = self.client.create_run(self.experiment, start_time=int(1000 * started), run_name=name, tags=tags)
        return run.info.run_id

    def _end(self, run_id: str, status: str, ended: float) -> None:
        self.client.set_terminated(run_id, status, int(1000 * ended))


def repair(*, only_look: bool = False) -> list[str]:
    """Names of the half-written runs of dead replays, which are removed unless it is `only_look`."""
    with client() as found:
        writer = _Writer(found)
        dead = writer.half_written() if only_look else writer.repair()
        return [f"{run.info.run_name} ({run.info.run_id})" for run in dead]


def _experiment_tags() -> dict[str, str]:
    """The DVC experiment and the preset that this is a state of, where there are any."""
    name = os.environ.get(EXPERIMENT_VARIABLE) or os.environ.get("DVC_EXP_NAME", "")
    preset = preset_of("params.yaml")
    return {key: value for key, value in (("dvc_experiment", name), ("preset", preset)) if value}


def executions() -> Path:
    """The folder of what was noted about the last successful execution of each stage, with the key of its result."""
    return own_state() / "executions"


def _note() -> Path:
    return own_state() / "replayed.json"


def _records() -> Path:
    return own_state() / "records"


def key_of(name: str, entry: Mapping[str, Any]) -> str:
    """The identity of a stage's result: its name, parameters, inputs and outputs as DVC recorded them."""
    return hashlib.sha256(json.dumps([name, entry], sort_keys=True, default=str).encode()).hexdigest()[:32]


@contextlib.contextmanager
def client() -> Iterator[Any]:
    """An MLflow client; a local database is created and migrated by one process at a time, and a damaged one is a ValueError."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    state_folder().mkdir(exist_ok=True)
    if tracking_uri().startswith("sqlite:///"):
        Path(tracking_uri().removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with open(state_folder() / "tracking.lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (path := database()) and (fault := fault_of(path)):
            raise ValueError(f"{path}: damaged ({fault}); `semmae doctor --repair` moves it aside")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        yield MlflowClient(tracking_uri=tracking_uri())


def _experiment(found: Any) -> str:
    known = found.get_experiment_by_name(EXPERIMENT)
    if known is not None:
        return known.experiment_id
    local = tracking_uri().startswith("sqlite:")
    artifacts = (main_worktree() / "tracking" / "artifacts").as_uri() if local else None
    return found.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=KIND)
