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
from pipeline.tracking.relocation import follow_repository
from pipeline.tracking.views import views
from shards.files import write_text

EXPERIMENT = "semmae"
# The id of the first experiment in a new database, after MLflow's own, which is 0.
FIRST_EXPERIMENT = "1"
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
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{LOCAL}{_own_database()}"


def _own_database() -> Path:
    return main_worktree() / "tracking" / "mlflow.db"


def artifact_root() -> str:
    """The address of the folder of MLflow's artifacts in the main worktree."""
    return (main_worktree() / "tracking" / "artifacts").as_uri()


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


def is_as_left(path: Path) -> bool:
    """Whether size and time of a local database are those that our own processes left: nobody else has written it since."""
    note = _size_and_time_note()
    return note.is_file() and note.read_text(encoding="utf-8") == size_and_time_of(path)


def note_left(size_and_time: str) -> None:
    """Note a local database of this size and time as sound."""
    write_text(_size_and_time_note(), size_and_time)


def size_and_time_of(path: Path) -> str:
    """Size and time of the last write of a file."""
    stat = path.stat()
    return f"{stat.st_size} bytes, written at {stat.st_mtime_ns}"


def _size_and_time_note() -> Path:
    return state_folder() / "tracking.size_and_time"


def says_running(path: Path) -> bool:
    """Whether a run in a local database says RUNNING, asked of SQLite alone; True if it cannot tell."""
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            query = "SELECT 1 FROM runs WHERE status = 'RUNNING' AND lifecycle_stage = 'active'"
            return connection.execute(query).fetchone() is not None
        except sqlite3.DatabaseError:
            return True


def be_quiet() -> None:
    """Set MLflow's variables for no telemetry, few messages and short waits, where the user has not set them."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})


@contextlib.contextmanager
def client() -> Iterator[Any]:
    """An MLflow client, under `database_lock`; a local database that somebody else wrote and damaged is a ValueError."""
    be_quiet()
    if is_local():
        Path(tracking_uri().removeprefix(LOCAL)).parent.mkdir(parents=True, exist_ok=True)
    with database_lock():
        path = database()
        is_known = path is None or is_as_left(path)
        if path and not is_known and (fault := fault_of(path)):
            raise ValueError(f"{path}: damaged ({fault}); `semmae doctor --repair` moves it aside")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        # It prints a traceback of what it then raises.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        from mlflow import MlflowClient

        mlflow_client = MlflowClient(tracking_uri=tracking_uri())
        # Not before MLflow has taken the database for one of its own version.
        if path == _own_database():
            follow_repository(path, EXPERIMENT, artifact_root())
        yield mlflow_client
        if is_known and (path := database()):
            note_left(size_and_time_of(path))


def experiment_id(mlflow_client: Any) -> str:
    """The id of our experiment, which is created where it is missing."""
    from mlflow.exceptions import MlflowException

    known = mlflow_client.get_experiment_by_name(EXPERIMENT)
    if known is None:
        # A server knows where its artifacts go; of a database alone MLflow takes the current folder.
        artifacts = None if tracking_uri().startswith("http") else artifact_root()
        try:
            return mlflow_client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags={**KIND, **views()})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # Another clone was faster.
        known = mlflow_client.get_experiment_by_name(EXPERIMENT)
    return known.experiment_id


def runs_of(mlflow_client: Any, experiments: Sequence[str], condition: str = "") -> Iterator[Any]:
    """The runs of these experiments that are not deleted."""
    token = None
    while True:
        page = mlflow_client.search_runs(experiments, condition, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
