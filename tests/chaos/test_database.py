"""Faults of the tracking database and of its server.

MLflow keeps a database open that was moved: what a user would do in a new process is done in one here (`apart`).
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

import pytest

from jobs.supervision import EXPERIMENT_VARIABLE
from pipeline.doctor.apart import apart
from pipeline.doctor.checks import examine
from pipeline.tracking.client import EXPERIMENT, client, fault_of
from pipeline.tracking.replay import replay
from pipeline.tracking.tags import KEY_TAG, OF_STATE, PARENT_TAG, PIPELINE_TAG
from tests.chaos.artefacts import harm
from tests.chaos.conftest import SILENT, Zygote

pytestmark = pytest.mark.family


@pytest.fixture(scope="module")
def tracked(original, tmp_path_factory):
    """The small repository with its runs in a tracking database."""
    folder = shutil.copytree(original, tmp_path_factory.mktemp("tracked") / "small", symlinks=True)
    with contextlib.chdir(folder):
        return folder, apart(replayed)[1]


SCHEMA = "the schema of the MLflow database"


def replayed():
    """How many stages a replay records, and the runs after it."""
    return len(replay().runs), runs()


def runs():
    """What a state determines of every run that is not deleted, which is what the doctor compares."""
    with client() as mlflow_client:
        experiment = mlflow_client.get_experiment_by_name(EXPERIMENT).experiment_id
        every = mlflow_client.search_runs([experiment])
        keys = {run.info.run_id: run.data.tags.get(PIPELINE_TAG) for run in every}
        return sorted(
            [
                run.info.status,
                sorted((name, value) for name, value in run.data.metrics.items() if not name.startswith("system/")),
                sorted(run.data.params.items()) if KEY_TAG in run.data.tags else [],
                sorted((name, run.data.tags.get(name, "")) for name in OF_STATE if name != PARENT_TAG),
                keys.get(run.data.tags.get(PARENT_TAG), "") or "",
                sorted([data.dataset.name, data.dataset.digest] for data in run.inputs.dataset_inputs),
            ]
            for run in every
        )


@pytest.mark.parametrize("kind", ["truncated", "emptied", "deleted", "header"])
def test_database__that_is_damaged_is_named_and_written_anew(tracked, tmp_path, monkeypatch, tries, tell, capsys, kind):
    for number in range(1 if kind in ("emptied", "deleted") else tries or 10):
        folder, whole = shutil.copytree(tracked[0], tmp_path / str(number), symlinks=True), tracked[1]
        monkeypatch.chdir(folder)
        database, draw = folder / "tracking" / "mlflow.db", random.Random(f"{kind} {number}")
        if kind == "header":
            data = bytearray(database.read_bytes())
            data[draw.randrange(16)] ^= 1 << draw.randrange(8)
            database.write_bytes(data)
        else:
            harm(database, kind, draw)
        fault = fault_of(database) if database.is_file() else ""
        if kind in ("truncated", "header") and database.stat().st_size:
            assert fault
            # Refused before MLflow opens it.
            assert not replay().runs and "warning: tracking" in capsys.readouterr().out
            (line,) = [line for line in map(str, examine(repair=True)) if str(database) in line]
            assert "damaged" in line and "replayed" in line and list((folder / ".semmae").glob("mlflow.db.*"))
        outcome = ("named, moved aside, " if fault else "") + "replayed to the same runs"
        is_same = apart(replayed) == (2, whole)
        tell({"header": "one bit flipped"}.get(kind, kind), "MLflow database", outcome if is_same else SILENT)


def test_database__whose_numbers_changed_is_moved_aside_and_replayed(tracked, tmp_path, monkeypatch, tell):
    """SQLite has no checksum of a value, but dvc.lock and the outs are there."""
    folder, whole = shutil.copytree(tracked[0], tmp_path / "small", symlinks=True), tracked[1]
    monkeypatch.chdir(folder)
    database = folder / "tracking" / "mlflow.db"
    for table in ("metrics", "latest_metrics"):
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(f"UPDATE {table} SET value = 9 WHERE key = 'size'")
    assert not fault_of(database, whole=True)
    (line,) = [line for line in map(str, examine(repair=True)) if str(database) in line]
    assert "make" in line and "differ from dvc.lock" in line
    outcome = "named, moved aside, replayed to the same runs" if apart(replayed) == (2, whole) else SILENT
    tell("one bit flipped", "a number in the MLflow database", outcome)


def test_database__of_a_newer_version_is_named_and_stays(tracked, tmp_path, monkeypatch, tell):
    folder = shutil.copytree(tracked[0], tmp_path / "small", symlinks=True)
    monkeypatch.chdir(folder)
    database = folder / "tracking" / "mlflow.db"
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    data = database.read_bytes()
    (line,) = map(str, examine(repair=True))
    assert "out-of-date database schema" in line and "move it away" in line
    tell(
        "schema of a newer version",
        "MLflow database",
        "named, old state kept" if database.read_bytes() == data else SILENT,
    )


def test_database__that_is_locked_is_no_damage(tracked, tmp_path, monkeypatch, tell):
    folder, whole = shutil.copytree(tracked[0], tmp_path / "small", symlinks=True), tracked[1]
    monkeypatch.chdir(folder)
    database = folder / "tracking" / "mlflow.db"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        lines = list(map(str, examine(repair=True)))
    assert all("database is locked" in line and "could not be examined" in line for line in lines)
    assert not list((folder / ".semmae").glob("mlflow.db.*"))
    tell("locked", "MLflow database", "named, old state kept" if apart(replayed) == (2, whole) else SILENT)


@pytest.fixture(scope="module")
def forks(tracked):
    """A process that has imported MLflow: each command of a user's is a fork of it, for MLflow keeps what it has opened."""
    started = Zygote("mlflow.store.tracking.sqlalchemy_store", "alembic.command", "tests.chaos.test_database")
    yield started
    started.end()


def print_findings():
    print(json.dumps(list(map(str, examine(repair=True)))))


def print_runs():
    print(json.dumps(replayed()))


# What the pages of runs show.
TABLES = ("runs", "tags", "params", "metrics", "latest_metrics", "datasets", "inputs")


def schema_of(database):
    """What says how to read those tables, and MLflow's version of it."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        written = [text for name, text in connection.execute("SELECT name, sql FROM sqlite_master") if name in TABLES]
    return [version.encode(), *(text.encode() for text in written)]


def place_in(data, draw, values):
    """A byte of the file: of one of the values, or where there are none, any that is not 0."""
    value = draw.choice(values) if values else b""
    starts = [match.start() for match in re.finditer(re.escape(value), data)] if value else []
    if starts:
        return draw.choice(starts) + draw.randrange(len(value))
    return draw.choice([at for at, byte in enumerate(data) if byte])


@pytest.mark.parametrize("where", [SCHEMA, "MLflow database, any byte"])
def test_database__a_bit_that_flipped_deep_inside_is_named_and_replayed(tracked, forks, tmp_path, tries, tell, where):
    folder, whole = tracked
    database = folder / "tracking" / "mlflow.db"
    data, values = database.read_bytes(), schema_of(database) if where == SCHEMA else []
    # All bits are a million; --chaos 0 draws as many as --chaos 20.
    for number in range((tries or 20) * 3 if tries != 1 else 1):
        draw = random.Random(f"{where} {number}")
        at, bit = place_in(data, draw, values), draw.randrange(8)
        place = shutil.copytree(folder, tmp_path / str(number), symlinks=True)
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        (place / "tracking" / "mlflow.db").write_bytes(flipped)
        outcome = outcome_of(place, forks, whole)
        shutil.rmtree(place)
        tell("one bit flipped", where, outcome)


def outcome_of(place, forks, whole):
    """The outcome for a damaged database: the doctor repairs, and the runs are replayed."""
    answer = forks(place, "tests.chaos.test_database:print_findings")
    assert answer["code"] == 0 and "Traceback" not in answer["output"], answer["output"]
    findings = json.loads(answer["output"].splitlines()[-1])
    assert all("\n" not in line and "mlflow.db" in line for line in findings), findings
    by_hand = [line for line in findings if "move it away" in line]
    if by_hand:
        (place / "tracking" / "mlflow.db").unlink()
    answer = forks(place, "tests.chaos.test_database:print_runs")
    same = answer["code"] == 0 and json.loads(answer["output"].splitlines()[-1]) == [2, json.loads(json.dumps(whole))]
    assert same or not findings, (findings, answer["output"])
    if not findings:
        return "read as it was" if same else SILENT
    return f"named, moved {'away by hand' if by_hand else 'aside'}, replayed to the same runs"


def test_database__a_journal_that_a_killed_writer_left_is_no_damage(tracked, tmp_path, monkeypatch, tell):
    folder, whole = shutil.copytree(tracked[0], tmp_path / "small", symlinks=True), tracked[1]
    monkeypatch.chdir(folder)
    database = folder / "tracking" / "mlflow.db"
    code = (
        "import os, signal, sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('PRAGMA cache_size = 1')\n"
        "connection.execute('BEGIN')\n"
        "connection.execute('UPDATE metrics SET value = 0')\n"
        "connection.execute('CREATE TABLE filler AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 20000) "
        "SELECT x, hex(randomblob(50)) FROM n')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(database)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert database.with_name("mlflow.db-journal").is_file()
    assert not [line for line in map(str, examine(repair=True)) if "mlflow.db" in line]
    tell("kill -9 at a write", "MLflow database", "old state kept" if apart(runs) == whole else SILENT)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def server(folder, port):
    """A tracking server on loopback, up when this yields; ended by its process."""
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with open(folder / "server.log", "ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
            assert process.poll() is None and time.monotonic() < deadline, (folder / "server.log").read_text()[-2000:]
            time.sleep(0.2)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_server__that_is_down_at_the_start_or_dies_on_the_way_costs_a_warning(
    small, tmp_path, monkeypatch, tries, tell, capsys
):
    from requests import Session

    port, send, seen = free_port(), Session.send, []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    assert not replay().runs
    assert capsys.readouterr().out.count("warning: tracking: http://127.0.0.1") == 1
    # A server takes its time to start: on the way it dies in `make chaos` alone.
    moments = [] if tries == 1 else [2, 5, 9, 14, -1]
    for moment in moments:
        with server(tmp_path, port) as process:

            def sent(self, request, process=process, moment=moment, **options):
                seen.append(request.path_url)
                if len(seen) == moment:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                return send(self, request, **options)

            seen.clear()
            monkeypatch.setattr(Session, "send", sent)
            monkeypatch.setenv(EXPERIMENT_VARIABLE, f"moment {moment}")
            written = replay()
            monkeypatch.setattr(Session, "send", send)
            assert bool(written.runs) == (moment == -1 or moment > len(seen))
            printed = capsys.readouterr().out
            assert written.runs or (printed.count("warning: tracking") == 1 and "semmae track" in printed), printed
    with server(tmp_path, port):
        monkeypatch.delenv(EXPERIMENT_VARIABLE, raising=False)
        assert len(replay().runs) == 2
        finished = [run for run in runs() if run[0] == "FINISHED" and ("stage", "make") in run[3]]
    database = tmp_path / "server.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    assert examine(repair=False) == [], "the server gives and takes what a database holds"
    metrics = [("part", 0.375), ("size", 8.0), ("training/loss", 0.7)]
    same = [run[1] for run in finished] == [metrics] * (1 + (-1 in moments))
    assert {status for _, status, _ in runs_left(tmp_path)} <= {"FINISHED"}
    tell(
        "tracking server down at the start" + (" and on the way" if moments else ""),
        "MLflow runs",
        "warned, replayed later" if same else SILENT,
        1 + len(moments),
    )


def runs_left(folder):
    """What the server's database shows as not deleted."""
    with contextlib.closing(sqlite3.connect(folder / "server.db")) as found:
        return found.execute("SELECT name, status, run_uuid FROM runs WHERE lifecycle_stage = 'active'").fetchall()
