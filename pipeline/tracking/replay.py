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
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from config.params import read_yaml
from config.presets import preset_of
from config.redaction import one_line, redacted
from jobs.dvc_lock import other_outs, stage_entries
from jobs.notes import read_note, write_note
from jobs.state import main_worktree, own_state, state_folder
from jobs.supervision import identity, is_alive
from pipeline.tracking.run_contents import (
    COMPUTED_TAG,
    KEY_TAG,
    PARENT_TAG,
    PIPELINE_TAG,
    TAGS,
    WRITER_TAG,
    Content,
    write_content,
)
from pipeline.tracking.stage_runs import git_tags, log_stage, params_of, tags_of

EXPERIMENT = "semmae"
# Without it MLflow 3 opens the experiment as one of language models, with an empty page of traces.
KIND = {"mlflow.experimentKind": "custom_model_development"}
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


def fault_of(path: Path, *, whole: bool = False) -> str:
    """What SQLite finds wrong with a database; empty for a sound one, and for one that somebody writes at this moment.

    whole: whether indices agree with tables too, which takes longer. What a killed writer had half written is rolled back
    first, as by every reader. A value has no checksum: `pipeline.tracking.run_damage`.
    """
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as found:
        try:
            told = found.execute(f"PRAGMA {'integrity' if whole else 'quick'}_check(1)").fetchone()[0]
        except sqlite3.OperationalError as error:
            told = "ok" if "locked" in str(error) else str(error)
        except (sqlite3.DatabaseError, UnicodeError) as error:  # SQLite's own words quote what is no text
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


def state_of(lock_file: str | Path = "dvc.lock") -> str:
    """The identity of the state in dvc.lock, by which a replay finds its run."""
    return _keys(_entries(Path(lock_file)))[1]


def last_written() -> tuple[str, str]:
    """The run of the pipeline that the last replay of this tree wrote, and its state; both empty where there was none."""
    note = read_note(_note())
    return (note["written"]["pipeline"], note["state"]) if note else ("", "")


def forget(pipelines: Collection[str]) -> None:
    """Runs of the pipeline that are gone: where the last replay of this tree wrote one of them, the next looks again."""
    if last_written()[0] in pipelines:
        _note().unlink(missing_ok=True)


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
        run = self._start(os.environ.get(EXPERIMENT_VARIABLE) or "pipeline", tags, started)
        pipeline, runs = run.info.run_id, {}
        for name, entry in entries.items():
            record, key = done.get(name), keys[name]
            tags = {**common, KEY_TAG: key, PARENT_TAG: pipeline, **tags_of(name, record, entry)}
            if record is None and key in known:
                tags[COMPUTED_TAG] = known[key]
            started = record["started"] if record else time.time()
            ended = started + record["seconds"] if record else started
            stage = self._start(name, tags, started)
            log_stage(self.client, stage, entry, record, FINISHED, _milliseconds(ended))
            runs[name] = self._end(stage, FINISHED, ended)
        for name, record in broken.items():
            tags = {**common, PARENT_TAG: pipeline, **tags_of(name, record)}
            stage, ended = self._start(name, tags, record["started"]), record["started"] + record["seconds"]
            write_content(self.client, stage, Content(), record["status"], _milliseconds(ended))
            runs[name] = self._end(stage, record["status"], ended)
        parameters, ended = Path("params.yaml"), time.time()
        content = Content(params_of(read_yaml(parameters))) if parameters.is_file() else Content()
        write_content(self.client, run, content, status, _milliseconds(ended))
        self._end(run, status, ended)
        return Replayed(self.experiment, pipeline, runs)

    def half_written(self) -> list[Any]:
        """The runs of replays of this machine that died on the way."""
        dead = []
        for run in self._search("attributes.status = 'RUNNING'"):
            host, _, writer = run.data.tags.get(WRITER_TAG, "").partition("/")
            # One replay at a time: what this very process left open is of an earlier one, which lost its server.
            if host == socket.gethostname() and (writer == identity(os.getpid()) or not is_alive(writer)):
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
        return runs_of(self.client, [self.experiment], condition)

    def _start(self, name: str, tags: Mapping[str, str], started: float) -> Any:
        assert tags.keys() <= TAGS, tags.keys() - TAGS
        tags = {key: redacted(value) for key, value in {**tags, WRITER_TAG: self.name}.items()}
        return self.client.create_run(self.experiment, start_time=_milliseconds(started), run_name=name, tags=tags)

    def _end(self, run: Any, status: str, ended: float) -> str:
        self.client.set_terminated(run.info.run_id, status, _milliseconds(ended))
        return run.info.run_id


def runs_of(client: Any, experiments: Sequence[str], condition: str = "") -> Iterator[Any]:
    """The runs of these experiments that are not deleted."""
    token = None
    while True:
        page = client.search_runs(experiments, condition, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _milliseconds(seconds: float) -> int:
    return int(1000 * seconds)


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
def held() -> Iterator[None]:
    """Keep the other processes of this repository from the tracking database."""
    state_folder().mkdir(exist_ok=True)
    with open(state_folder() / "tracking.lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def client() -> Iterator[Any]:
    """An MLflow client; a local database is created and migrated by one process at a time, and a damaged one is a ValueError."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    if tracking_uri().startswith("sqlite:///"):
        Path(tracking_uri().removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with held():
        if (path := database()) and (fault := fault_of(path)):
            raise ValueError(f"{path}: damaged ({fault}); `semmae doctor --repair` moves it aside")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        # It prints a traceback of what it then raises.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        from mlflow import MlflowClient

        yield MlflowClient(tracking_uri=tracking_uri())


def _experiment(found: Any) -> str:
    known = found.get_experiment_by_name(EXPERIMENT)
    if known is not None:
        return known.experiment_id
    local = tracking_uri().startswith("sqlite:")
    artifacts = (main_worktree() / "tracking" / "artifacts").as_uri() if local else None
    return found.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=KIND)
