import contextlib
import os
import sqlite3

import pytest

from jobs.notes import read_note
from jobs.supervision import identity
from pipeline.doctor import database as doctor_database
from pipeline.doctor.apart import apart
from pipeline.doctor.checks import examine
from pipeline.doctor.trees import trees
from pipeline.tracking.client import EXPERIMENT, client, database
from pipeline.tracking.replay import replay
from pipeline.tracking.tags import WRITER_TAG
from tests.pipeline.doctor.conftest import (
    REPLAY,
    enter,
    lines,
    mend,
    statuses,
    write_record,
)

pytestmark = pytest.mark.family


def test_half_written_runs__of_dead_replays_go_and_those_of_living_ones_stay(tree, killed):
    killed(REPLAY)
    living = {
        "of the living": f"{os.uname().nodename}/{identity(os.getppid())}",
        "of another machine": "other/1:2.0",
        "no replay": "",
    }
    apart(create_runs, living)
    mend(["(big make (", "(pipeline ("])
    assert statuses() == [(name, "RUNNING") for name in ("no replay", "of another machine", "of the living")]


def create_runs(writers):
    with client() as mlflow_client:
        experiment = mlflow_client.get_experiment_by_name(EXPERIMENT).experiment_id
        for name, writer in writers.items():
            mlflow_client.create_run(experiment, run_name=name, tags={WRITER_TAG: writer})


def change(words, *values):
    """Change the tracking database as no writer would; indices follow."""
    with contextlib.closing(sqlite3.connect(database())) as connection, connection:
        connection.execute(words, values)


WHOLE = [("big make", "FINISHED"), ("pipeline", "FINISHED")]


@pytest.fixture(scope="module")
def replayed(original, tmp_path_factory):
    """The repository with its runs in a tracking database."""
    with pytest.MonkeyPatch.context() as patch:
        folder = enter(original, tmp_path_factory.mktemp("replayed"), patch)
        assert apart(replay).pipeline
        return folder


@pytest.fixture
def tracked(replayed, tmp_path, monkeypatch):
    """A copy of it, in which we are."""
    return enter(replayed, tmp_path, monkeypatch)


def test_tracking_database__as_our_processes_left_it_is_not_asked_of_mlflow(tracked, monkeypatch):
    """MLflow takes seconds to load; one byte that somebody else changed makes the doctor ask it, until it has found it sound."""
    asked = []
    monkeypatch.setattr(doctor_database, "apart", lambda function, *words: asked.append(function) or [])
    assert lines() == [] and asked == []
    change("INSERT INTO tags SELECT 'note', 'read this', run_uuid FROM runs")
    assert lines() == [] and asked == [doctor_database.fault_of_runs]
    assert lines() == [] and len(asked) == 1


def last_pipeline():
    """The run of the pipeline in the note of the last replay."""
    return read_note(".semmae/replayed.json")["written"]["pipeline"]


@pytest.mark.parametrize(("words", "finding"), {
    "UPDATE tags SET value = 'maks' WHERE key = 'stage'": "runs that differ from dvc.lock and its outs: big make, pipeline",
    "UPDATE tags SET value = CAST(x'6dff' AS TEXT) WHERE key = 'stage'": "MLflow cannot read it: ",
    "ALTER TABLE latest_metrics RENAME COLUMN value TO vamue": "MLflow cannot read it: ",
}.items(), ids=["a value", "no text", "a column"])  # fmt: skip
def test_tracking_database__that_is_damaged_is_moved_aside_and_replayed(tracked, capfd, words, finding):
    written = last_pipeline()
    change(words)
    assert doctor_database.fault_of_runs(database(), trees()).startswith(finding)
    assert "Traceback" not in "".join(capfd.readouterr())
    (line,) = mend([f"damaged ({finding}"])
    (aside,) = (tracked / ".semmae").glob("mlflow.db.*")
    assert f"moved to {aside}, replayed; runs of other states" in line
    assert statuses() == WHOLE and apart(replay).pipeline not in ("", written)


def test_tracking_database__whose_indices_differ_from_its_tables_is_moved_aside(tracked):
    known = "FROM sqlite_master WHERE name = 'index_tags_run_uuid'"
    with contextlib.closing(sqlite3.connect(database())) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        row = connection.execute(f"SELECT * {known}").fetchone()
        connection.execute(f"DELETE {known}")
    change("UPDATE tags SET run_uuid = 'x' WHERE key = 'stage' AND value = 'make'")
    with contextlib.closing(sqlite3.connect(database())) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", row)
    mend(["damaged ("])
    assert statuses() == WHOLE


def test_tracking_database__records_that_no_replay_wrote_are_in_the_new_one(tracked):
    database().write_bytes(b"not a database" * 100)
    write_record(tracked, "FINISHED")
    write_record(tracked, "KILLED", "other")
    found = examine(repair=True)
    assert len(found) == 1 and examine(repair=False) == []
    assert statuses() == [*WHOLE[:1], ("other", "KILLED"), ("pipeline", "FINISHED"), ("pipeline", "KILLED")]


def test_tracking_database__of_another_version_of_mlflow_stays(tracked):
    change("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    (line,) = lines(repair=True)
    assert "could not be examined" in line and "out-of-date database schema" in line and "move it away" in line
    assert database()


@pytest.mark.parametrize(
    "message", ["(sqlite3.OperationalError) database is locked", "attempt to write a readonly database"]
)
def test_fault_of_runs__what_is_no_damage_moves_nothing(tracked, monkeypatch, message):
    def refuse():
        raise OSError(message)

    monkeypatch.setattr(doctor_database, "client", refuse)
    with pytest.raises(ValueError, match=f"mlflow.db: .*{message[-15:]}.*move it away"):
        doctor_database.fault_of_runs(tracked / "mlflow.db", {})
