"""Faults of what lies around the stages: dvc.lock, the tracking database and its server, and two pipelines at once."""

import contextlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

import pytest
from dvc.repo import Repo

from pipeline import tracking
from pipeline.doctor import examine
from pipeline.files import md5_of
from pipeline.graph import stage_entries
from pipeline.locks import lock
from tests.chaos.artefacts import damaged
from tests.chaos.conftest import SILENT
from tests.chaos.test_stages import Case
from tests.chaos.zygote import error_lines
from tests.pipeline.conftest import make_small, surroundings  # noqa: F401

STAGES = """
stages:
  make:
    cmd: >-
      mkdir -p out && cp mine/image.txt out/made && echo '{"size": 8}' > out/metrics.json
    deps: [mine/image.txt]
    outs: [out/made]
    metrics: [out/metrics.json]
  last:
    cmd: cat out/made out/made > out/last
    deps: [out/made]
    outs: [out/last]
"""
OUTS = ("out/made", "out/metrics.json", "out/last")


@pytest.fixture(scope="module")
def original(tmp_path_factory, surroundings):  # noqa: F811
    """A small repository whose stages have run."""
    folder = make_small(tmp_path_factory.mktemp("original") / "small", STAGES)
    with contextlib.chdir(folder), Repo() as repo:
        repo.reproduce()
    return folder


@pytest.fixture
def small(original, tmp_path, monkeypatch):
    """A copy of it, in which we are."""
    folder = shutil.copytree(original, tmp_path / "small", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def harm(path, kind, draw):
    """Damage a file, at a place that is drawn."""
    data = path.read_bytes()
    path.unlink()
    if kind != "deleted":
        path.write_bytes(damaged(data, kind, draw.randrange(len(data) * (8 if kind == "flipped" else 1))))


@pytest.mark.parametrize("kind", ["flipped", "truncated", "emptied", "deleted"])
def test_dvc_lock__that_is_damaged_is_mended_and_the_outs_stay_what_they_are(small, tries, tell, kind):
    whole = {out: md5_of(out) for out in OUTS}
    first = (small / "dvc.lock").read_bytes()
    for number in range((tries or 25) * 4):
        harm(small / "dvc.lock", kind, random.Random(f"{kind} {number}"))
        found = examine(repair=True)
        with Repo() as repo:
            repo.reproduce()
        same = {out: md5_of(out) for out in OUTS} == whole and md5_of("out/last") == outs_of(small)["out/last"]
        told = "named, moved aside, restored" if found else "restored"
        tell({"flipped": "one bit flipped"}.get(kind, kind), "dvc.lock", told if same else SILENT)
        (small / "dvc.lock").write_bytes(first)


def outs_of(folder):
    return {out["path"]: out["md5"] for entry in stage_entries(folder / "dvc.lock").values() for out in entry["outs"]}


def test_dvc_lock__killed_while_dvc_writes_it_is_mended(small, zygote, tries, tell):
    """DVC writes it in place: the one file here that can be cut off."""
    whole = {out: md5_of(out) for out in OUTS}
    shutil.rmtree(small / "out")
    (small / "dvc.lock").unlink()
    counted = shutil.copytree(small, small.with_name("counted"), symlinks=True)
    points = zygote(counted, "tests.chaos.test_pipelines:reproduce")["points"]
    assert points > 20
    draw = random.Random("dvc.lock")
    for number in range(6 if tries == 1 else 3 * tries or points):
        folder = shutil.copytree(small, small.with_name(f"killed-{number}"), symlinks=True)
        ended = zygote(folder, "tests.chaos.test_pipelines:reproduce", fault="kill", at=draw.randint(1, points))
        assert ended["code"] == -signal.SIGKILL, ended["output"]
        with contextlib.chdir(folder):
            found = examine(repair=True)
            with Repo() as repo:
                repo.reproduce()
            same = {out: md5_of(out) for out in OUTS} == whole and outs_of(folder) == {**outs_of(folder), **whole}
        told = "mended by the doctor, restored" if found else "recomputed"
        tell("kill -9 in DVC", "dvc.lock", told if same else SILENT)


def reproduce():
    with Repo() as repo:
        repo.reproduce()


@pytest.fixture(scope="module")
def tracked(original, tmp_path_factory):
    """The small repository with its runs in a tracking database."""
    folder = shutil.copytree(original, tmp_path_factory.mktemp("tracked") / "small", symlinks=True)
    with contextlib.chdir(folder):
        assert len(tracking.replay().runs) == 2
        return folder, runs()


def runs():
    """Name, status and metrics of every finished run."""
    with tracking.client() as found:
        experiment = found.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
        every = found.search_runs([experiment])
        return sorted((run.info.run_name, run.info.status, sorted(run.data.metrics.items())) for run in every)


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
    assert "make" in line and "other numbers" in line
    assert len(tracking.replay().runs) == 2
    tell("one bit flipped", "a number in the MLflow database", "named, written again" if runs() == whole else SILENT)


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
        finished = [run for run in runs() if run[1] == "FINISHED"]
    metrics = [("size", 8.0)]
    same = [found for name, _, found in finished if name == "make"] == [metrics] * (1 + (-1 in moments))
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


def test_two_walks__in_one_repository_the_second_is_told(small, tell):
    from pipeline.experiments import hold

    whole = {out: md5_of(out) for out in OUTS}
    with hold(small):
        command = [sys.executable, "-c", "from pipeline.cli import main; main()", "run", "--force"]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 1 and second.stderr.startswith("error: a walk in"), second.stdout + second.stderr
    assert len(second.stderr.splitlines()) == 1
    same = {out: md5_of(out) for out in OUTS} == whole
    tell("two `semmae run` at once", "the repository", "the second refused, named" if same else SILENT)


@pytest.mark.slow
def test_two_dvc_repros__at_once_leave_what_one_leaves(small, tell):
    whole = {out: md5_of(out) for out in OUTS}
    shutil.rmtree("out")
    shutil.rmtree(".dvc/cache")
    os.unlink("dvc.lock")
    command = [sys.executable, "-m", "dvc", "repro"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert 0 in [process.returncode for process in both], said
    for process, text in zip(both, said, strict=True):
        assert process.returncode == 0 or "lock" in text or "busy" in text, text
    subprocess.run(command, check=True, capture_output=True)
    same = {out: md5_of(out) for out in OUTS} == whole and examine(repair=False) == []
    tell("two `dvc repro` at once", "the repository", "one done, or both in turn" if same else SILENT)


def test_the_same_job__twice_at_once_the_second_is_told(zygote, recorded, tmp_path, tell):
    one = Case(zygote, recorded, tmp_path / "world", ("pretrain", "semmae", "0"))
    one.save_always()
    assert one.run("kill", 200)["code"] == -signal.SIGKILL
    (folder,) = (one.folder / ".semmae/scratch").glob("*/*/")
    with lock(folder, "test"):
        second = one.run()
    assert second["code"] == 1 and "another process runs this very job" in error_lines(second)[0], second["output"]
    _, is_same = one.ends()
    tell("the same job twice at once", "training checkpoint", "the second refused, named" if is_same else SILENT)


def test_doctor__a_day_that_jumps_by_makes_nothing_old_or_dead(small, monkeypatch, tell):
    with lock(small / ".semmae/scratch/pretrain-mae-0/abc", "pretrain-mae-0"):
        pass
    now = time.time()
    for seconds in (-86400, 86400):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now + seconds)
        assert examine(repair=True) == []
        assert (small / ".semmae/scratch/pretrain-mae-0/abc").is_dir()
        tell(f"clock jumps by {seconds // 86400:+d} day", "resume state before the doctor", "old state kept")
