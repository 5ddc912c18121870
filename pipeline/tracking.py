"""What DVC has recorded, replayed into MLflow: one run for every stage result, whether it was computed or restored.

Stages import no MLflow. They leave metrics and history as outs, and one process replays them: a lost or broken tracking
server costs a warning, and the next replay catches up, for it looks at what is missing and not at what just happened.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.files import main_worktree, read_json, state_folder, write_json
from pipeline.graph import stage_entries

EXPERIMENT = "semmae"
# Without it MLflow 3 opens the experiment as one of language models, with an empty page of traces.
KIND = {"mlflow.experimentKind": "custom_model_development"}
KEY_TAG = "semmae.key"
BATCH = 1000
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite database under the main worktree, by absolute path."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{main_worktree() / 'tracking' / 'mlflow.db'}"


def replay(lock_file: str | Path = "dvc.lock") -> int:
    """Create an MLflow run for every stage result in dvc.lock that has none; returns how many were created.

    Also one for every execution that failed or was terminated. Any fault of the tracking server is one printed
    warning: nothing is lost, because the next call finds the same runs missing.
    """
    try:
        return _replay(Path(lock_file))
    except Exception as error:
        print(
            f"warning: tracking: {tracking_uri()}: {' '.join(str(error).split())[:300]}; nothing is lost, "
            "`semmae track` replays it later",
            flush=True,
        )
        return 0


def _replay(lock_file: Path) -> int:
    entries = stage_entries(lock_file)
    records = _records()
    with _client() as client:
        experiment = _experiment(client)
        known = _known_keys(client, experiment)
        created = 0
        for name, entry in entries.items():
            key = key_of(name, entry)
            record = records.get(name)
            if key not in known:
                _log_stage(client, experiment, name, key, entry, record)
                created += 1
            if record is not None and record["status"] == "FINISHED":
                write_json(executions() / f"{name}.json", {**record, "key": key})
                (state_folder() / "records" / f"{name}.json").unlink()
        for name, record in records.items():
            if record["status"] != "FINISHED":
                _start(client, experiment, name, {"status_only": "true"}, record)
                (state_folder() / "records" / f"{name}.json").unlink()
                created += 1
    return created


def executions() -> Path:
    """The folder of what was noted about the last successful execution of each stage, with the key of its result."""
    return state_folder() / "executions"


def key_of(name: str, entry: Mapping[str, Any]) -> str:
    """The identity of a stage's result: its name, parameters, inputs and outputs as DVC recorded them."""
    return hashlib.sha256(json.dumps([name, entry], sort_keys=True, default=str).encode()).hexdigest()[:32]


@contextlib.contextmanager
def _client() -> Iterator[Any]:
    """An MLflow client; a local database is created and migrated by one process at a time."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    state_folder().mkdir(exist_ok=True)
    if tracking_uri().startswith("sqlite:///"):
        Path(tracking_uri().removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with open(state_folder() / "tracking.lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        yield MlflowClient(tracking_uri=tracking_uri())


def _experiment(client: Any) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    local = tracking_uri().startswith("sqlite:")
    artifacts = (main_worktree() / "tracking" / "artifacts").as_uri() if local else None
    return client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=KIND)


def _known_keys(client: Any, experiment: str) -> set[str]:
    keys: set[str] = set()
    token = None
    while True:
        page = client.search_runs([experiment], max_results=BATCH, page_token=token)
        for run in page:
            if run.info.status == "FINISHED":
                keys.add(run.data.tags.get(KEY_TAG, ""))
            elif run.info.status == "RUNNING" and KEY_TAG in run.data.tags:
                client.delete_run(run.info.run_id)  # a replay was cut short: this one writes it again, whole
        token = page.token
        if not token:
            return keys


def _start(client: Any, experiment: str, name: str, tags: dict[str, str], record: Mapping[str, Any] | None) -> str:
    """Create a run; one whose execution is recorded gets its times. Left open when FINISHED."""
    started = int(1000 * (record["started"] if record else time.time()))
    run = client.create_run(experiment, start_time=started, run_name=name, tags={**tags, **_tags(name, record)})
    if record is not None and record["status"] != "FINISHED":
        client.set_terminated(run.info.run_id, record["status"], started + int(1000 * record["seconds"]))
    return run.info.run_id


def _tags(name: str, record: Mapping[str, Any] | None) -> dict[str, str]:
    stage, _, item = name.partition("@")
    tags = {"stage": stage, "cache_hit": str(record is None).lower(), "git_commit": _git("rev-parse", "HEAD")}
    tags["git_dirty"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    match = re.fullmatch(r"(?P<arm>\w+?)(?:-(?P<seed>\d+))?", item)
    if match and stage not in ("generate_creatures", "evaluate_parts"):
        tags |= {group: value for group, value in match.groupdict().items() if value}
    if record and record["dvc_experiment"]:
        tags["dvc_experiment"] = record["dvc_experiment"]
    return tags


def _git(*words: str) -> str:
    answer = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def _log_stage(
    client: Any, experiment: str, name: str, key: str, entry: Mapping[str, Any], record: Mapping[str, Any] | None
) -> None:
    from mlflow.entities import Dataset, DatasetInput, Metric, Param

    record = record if record is not None and record["status"] == "FINISHED" else None
    run_id = _start(client, experiment, name, {KEY_TAG: key}, record)
    now = int(1000 * time.time())
    metrics = [Metric(metric, float(value), now, 0) for metric, value in _final_metrics(entry)]
    if record:
        metrics += [
            Metric(f"system/{part}", float(record[part]), now, 0) for part in ("seconds", "cpu_seconds", "peak_mib")
        ]
    for row in _history(entry):
        metrics += [
            Metric(f"training/{part}", float(row[part]), now, int(row["step"])) for part in row if part != "step"
        ]
    params = [Param(part, str(value)[:6000]) for part, value in flatten(entry.get("params", {}).get("params.yaml", {}))]
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])
    inputs = [
        DatasetInput(Dataset(name=dep["path"][:500], digest=dep["md5"][:36], source_type="dvc", source=dep["path"]))
        for dep in entry.get("deps", [])
        if not dep["path"].endswith(".py") and "md5" in dep
    ]
    if inputs:
        client.log_inputs(run_id, datasets=inputs)
    for path in _pictures(entry):
        client.log_artifact(run_id, str(path))
    ended = int(1000 * (record["started"] + record["seconds"])) if record else now
    client.set_terminated(run_id, "FINISHED", ended)


def _outs(entry: Mapping[str, Any]) -> list[Path]:
    return [Path(out["path"]) for out in entry.get("outs", [])]


def _final_metrics(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for path in _outs(entry):
        if path.suffix == ".json" and (path.parts[0] == "metrics" or path.name == "metrics.json"):
            yield from sorted(read_json(path).items())


def _history(entry: Mapping[str, Any]) -> Iterator[dict[str, float]]:
    for path in _outs(entry):
        if path.parts[0] == "history":
            yield from read_json(path)


def _pictures(entry: Mapping[str, Any]) -> Iterator[Path]:
    for path in _outs(entry):
        if path.suffix == ".html":
            yield path
        elif path.name == "figures":
            yield from sorted(path.iterdir())


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of nested dictionaries."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _records() -> dict[str, dict[str, Any]]:
    folder = state_folder() / "records"
    return {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
