"""Where MLflow keeps the runs, and a client of it.

That is a server, or a SQLite database in the main worktree, which one process at a time creates, migrates and writes.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jobs.state import main_worktree, state_folder

EXPERIMENT = "semmae"
# Without it MLflow 3 opens the experiment as one of language models, with an empty page of traces.
KIND = {"mlflow.experimentKind": "custom_model_development"}
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
PAGE = 1000
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
LOCAL = "sqlite:///"


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite database of the main worktree, by absolute path."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{LOCAL}{main_worktree() / 'tracking' / 'mlflow.db'}"


def is_local() -> bool:
    """Whether the runs are in a SQLite database, which may not exist yet."""
    return tracking_uri().startswith(LOCAL)


def database() -> Path | None:
    """The file of the local tracking database, where there is one."""
    path = Path(tracking_uri().removeprefix(LOCAL))
    return path if is_local() and path.is_file() else None


def fault_of(path: Path, *, whole: bool = False) -> str:
    """What SQLite's own check reports of a database; empty for a sound one, and for one that is being written.

    whole: also compares indices with their tables, which takes longer. SQLite first rolls back what a killed writer had
    half written. Values have no checksum: `pipeline.tracking.comparison`.
    """
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as connection:
        try:
            message = connection.execute(f"PRAGMA {'integrity' if whole else 'quick'}_check(1)").fetchone()[0]
        except sqlite3.OperationalError as error:
            message = "ok" if "locked" in str(error) else str(error)
        except (sqlite3.DatabaseError, UnicodeError) as error:  # SQLite's message may quote bytes that are no text
            message = str(error)
    return "" if message == "ok" else " ".join(message.split())[:120]


@contextlib.contextmanager
def database_lock() -> Iterator[None]:
    """Keep the other processes of this repository from the tracking database."""
    state_folder().mkdir(exist_ok=True)
    with open(state_folder() / "tracking.lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def be_quiet() -> None:
    """Set MLflow's variables for no telemetry, few messages and short waits, where the user has not set them."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})


@contextlib.contextmanager
def client() -> Iterator[Any]:
    """An MLflow client, under `database_lock`; a damaged local database is a ValueError."""
    be_quiet()
    if is_local():
        Path(tracking_uri().removeprefix(LOCAL)).parent.mkdir(parents=True, exist_ok=True)
    with database_lock():
        if (path := database()) and (fault := fault_of(path)):
            raise ValueError(f"{path}: damaged ({fault}); `semmae doctor --repair` moves it aside")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        # It prints a traceback of what it then raises.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        from mlflow import MlflowClient

        yield MlflowClient(tracking_uri=tracking_uri())


def experiment_id(mlflow_client: Any) -> str:
    """The id of our experiment, which is created where it is missing."""
    known = mlflow_client.get_experiment_by_name(EXPERIMENT)
    if known is not None:
        return known.experiment_id
    artifacts = (main_worktree() / "tracking" / "artifacts").as_uri() if is_local() else None
    return mlflow_client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=KIND)


def runs_of(mlflow_client: Any, experiments: Sequence[str], condition: str = "") -> Iterator[Any]:
    """The runs of these experiments that are not deleted."""
    token = None
    while True:
        page = mlflow_client.search_runs(experiments, condition, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
