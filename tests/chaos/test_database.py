"""Faults of the tracking database and of its server."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
import urllib.request

import pytest

from pipeline.doctor.checks import examine
from pipeline.tracking import replay as tracking
from pipeline.tracking.run_contents import COMPUTED_TAG, PARENT_TAG, TAGS, WRITER_TAG
from pipeline.tracking.run_damage import damaged_runs
from tests.chaos.artefacts import harm
from tests.chaos.conftest import SILENT, Zygote


@pytest.fixture(scope="module")
def tracked(original, tmp_path_factory):
    """The small repository with its runs in a tracking database."""
    folder = shutil.copytree(original, tmp_path_factory.mktemp("tracked") / "small", symlinks=True)
    with contextlib.chdir(folder):
        assert len(tracking.replay().runs) == 2
        return folder, runs()


VALUE, SCHEMA = "a value in the MLflow database", "the schema of the MLflow database"
# Tags that differ by nature: who wrote, and the ids of other runs.
OF_A_WRITER = {WRITER_TAG, PARENT_TAG, COMPUTED_TAG}


def runs():
    """What a user sees of every run that is not deleted, but for ids and times."""
    with tracking.client() as found:
        experiment = found.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
        every = found.search_runs([experiment])
        names = {run.info.run_id: run.info.run_name for run in every}
        return sorted(
            [
                run.info.run_name, run.info.status, run.info.user_id, sorted(run.data.metrics.items()),
                [[(name, point.step, point.value) for point in found.get_metric_history(run.info.run_id, name)]
                 for name in sorted(run.data.metrics)],
                sorted(run.data.params.items()),
                sorted((name, value) for name, value in run.data.tags.items() if name in TAGS - OF_A_WRITER),
                [names.get(run.data.tags.get(PARENT_TAG)), run.data.tags.get("mlflow.runName")],
                sorted((data.name, data.digest, data.source_type, data.source)
                       for data in (one.dataset for one in run.inputs.dataset_inputs)),
            ]
            for run in every
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["truncated", "emptied", "deleted", "header"])
def test_database__that_is_damaged_is_named_and_written_anew(tracked, tmp_path, monkeypatch, tries, tell, capsys, kind):
    for number in range(1 if kind in ("emptied", "deleted") else tries or 10):
        # Nothing looks at the copy before it is damaged: MLflow keeps what it has opened.
        folder, whole = shutil.copytree(tracked[0], tmp_path / str(number), symlinks=True), tracked[1]
        monkeypatch.chdir(folder)
        database, draw = folder / "tracking" / "mlflow.db", random.Random(f"{kind} {number}")
        if kind == "header":
            data = bytearray(database.read_bytes())
            data[draw.randrange(16)] ^= 1 << draw.randrange(8)
            database.write_bytes(data)
        else:
            harm(database, kind, draw)
        told = tracking.fault_of(database) if database.is_file() else ""
        if kind in ("truncated", "header") and database.stat().st_size:
            assert told
            assert not tracking.replay().runs
            assert "warning: tracking" in capsys.readouterr().out
            assert [line for line in examine(repair=True) if str(database) in line and "damaged" in line]
            assert list((folder / ".semmae").glob("mlflow.db.*"))
        assert len(tracking.replay().runs) == 2
        tell({"header": "one bit flipped"}.get(kind, kind), "MLflow database",
             ("named, moved aside, " if told else "") + "replayed to the same runs" if runs() == whole else SILENT)  # fmt: skip


def test_database__whose_numbers_changed_is_found_by_the_doctor(tracked, tmp_path, monkeypatch, tell):
    """SQLite has no checksum of a value, but the files that it was written from are there."""
    folder, whole = shutil.copytree(tracked[0], tmp_path / "small", symlinks=True), tracked[1]
    monkeypatch.chdir(folder)
    database = folder / "tracking" / "mlflow.db"
    for table in ("metrics", "latest_metrics"):
        with contextlib.closing(sqlite3.connect(database)) as found, found:
            found.execute(f"UPDATE {table} SET value = 9 WHERE key = 'size'")
    assert not tracking.fault_of(database)
    (line,) = [line for line in examine(repair=True) if str(database) in line]
    assert "make" in line and "not what was written" in line
    assert len(tracking.replay().runs) == 2
    tell("one bit flipped", "a number in the MLflow database", "named, written again" if runs() == whole else SILENT)


@pytest.fixture(scope="module")
def forks(tracked):
    """A process that has imported MLflow: each command of a user's is a fork of it, for MLflow keeps what it has opened."""
    started = Zygote("mlflow.store.tracking.sqlalchemy_store", "alembic.command", "tests.chaos.test_database")
    yield started
    started.end()


def print_findings():
    print(json.dumps(examine(repair=True)))


def print_runs():
    print(json.dumps([len(tracking.replay().runs), runs()]))


# What the pages of runs show.
TABLES = ("runs", "tags", "params", "metrics", "latest_metrics", "datasets", "inputs")


def schema_of(database):
    """What says how to read those tables, and MLflow's version of it."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        written = [text for name, text in connection.execute("SELECT name, sql FROM sqlite_master") if name in TABLES]
    return [version.encode(), *(text.encode() for text in written)]


def values_of(database):
    """Texts and numbers of the runs and their experiment, as they lie in the file."""
    found = {tracking.EXPERIMENT.encode()}
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for table in TABLES:
            for value in (value for row in connection.execute(f"SELECT * FROM {table}") for value in row):
                if isinstance(value, float):
                    found.add(struct.pack(">d", value))
                elif isinstance(value, str) and len(value) > 2:
                    found.add(value.encode())
                elif isinstance(value, int) and value > 2**24:
                    found.add(value.to_bytes(6, "big"))
    return sorted(found)


def place_in(data, where, draw, values):
    """A byte of the file: of a value that is drawn, or any that is not 0."""
    if where in values:
        value = draw.choice(values[where])
        starts = [found.start() for found in re.finditer(re.escape(value), data)]
        return draw.choice(starts) + draw.randrange(len(value)) if starts else place_in(data, where, draw, values)
    at = draw.randrange(len(data))
    return at if data[at] else place_in(data, where, draw, values)


@pytest.mark.parametrize("where", [VALUE, SCHEMA, "MLflow database, any byte"])
def test_database__a_bit_that_flipped_deep_inside_is_named_and_mended(tracked, forks, tmp_path, tries, tell, where):
    folder, whole = tracked
    data = (folder / "tracking" / "mlflow.db").read_bytes()
    values = {VALUE: values_of(folder / "tracking" / "mlflow.db"), SCHEMA: schema_of(folder / "tracking" / "mlflow.db")}
    # All bits are a million; --chaos 0 draws as many as --chaos 20.
    for number in range((tries or 20) * 3):
        draw = random.Random(f"{where} {number}")
        at, bit = place_in(data, where, draw, values), draw.randrange(8)
        place = shutil.copytree(folder, tmp_path / str(number), symlinks=True)
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        (place / "tracking" / "mlflow.db").write_bytes(flipped)
        outcome = become(place, forks, whole)
        shutil.rmtree(place)
        tell("one bit flipped", where, outcome)


def become(place, forks, whole):
    """What became of a damaged database: the doctor repairs, and the runs are replayed."""
    answer = forks(place, "tests.chaos.test_database:print_findings")
    assert answer["code"] == 0 and "Traceback" not in answer["output"], answer["output"]
    found = json.loads(answer["output"].splitlines()[-1])
    assert all("\n" not in line and "mlflow.db" in line for line in found), found
    by_hand = [line for line in found if "move it away" in line]
    if by_hand:
        (place / "tracking" / "mlflow.db").unlink()
    answer = forks(place, "tests.chaos.test_database:print_runs")
    same = answer["code"] == 0 and json.loads(answer["output"].splitlines()[-1]) == [2, json.loads(json.dumps(whole))]
    assert same or not found, (found, answer["output"])
    if not found:
        return "read as it was" if same else SILENT
    if by_hand:
        return "named, moved away by hand, replayed to the same runs"
    is_aside = any("moved to" in line for line in found)
    return f"named, {'moved aside, ' if is_aside else ''}replayed to the same runs"


def test_database__a_journal_that_a_killed_writer_left_is_no_damage(tracked, tmp_path, monkeypatch, tell):
    folder, whole = shutil.copytree(tracked[0], tmp_path / "small", symlinks=True), tracked[1]
    monkeypatch.chdir(folder)
    database = folder / "tracking" / "mlflow.db"
    code = (
        "import os, signal, sqlite3, sys\n"
        "found = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "found.execute('PRAGMA cache_size = 1')\n"
        "found.execute('BEGIN')\n"
        "found.execute('UPDATE metrics SET value = 0')\n"
        "found.execute('CREATE TABLE filler AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 20000) "
        "SELECT x, hex(randomblob(50)) FROM n')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(database)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert database.with_name("mlflow.db-journal").is_file()
    assert not [line for line in examine(repair=True) if "mlflow.db" in line]
    tell("kill -9 at a write", "MLflow database", "old state kept" if runs() == whole else SILENT)


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
    assert not tracking.replay().runs
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
            monkeypatch.setenv(tracking.EXPERIMENT_VARIABLE, f"moment {moment}")
            written = tracking.replay()
            monkeypatch.setattr(Session, "send", send)
            assert bool(written.runs) == (moment == -1 or moment > len(seen))
            told = capsys.readouterr().out
            assert written.runs or (told.count("warning: tracking") == 1 and "semmae track" in told), told
    with server(tmp_path, port):
        monkeypatch.delenv(tracking.EXPERIMENT_VARIABLE, raising=False)
        assert len(tracking.replay().runs) == 2
        finished = [run for run in runs() if run[:2] == ["make", "FINISHED"]]
    database = tmp_path / "server.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    assert damaged_runs(database) == [], "the server gives and takes what a database holds"
    metrics = [("part", 0.375), ("size", 8.0), ("training/loss", 0.7)]
    same = [run[3] for run in finished] == [metrics] * (1 + (-1 in moments))
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
