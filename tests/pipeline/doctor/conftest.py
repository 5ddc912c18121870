"""A small repository, and what processes that are killed with -9 leave behind in it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys

import pytest

from jobs.notes import write_note
from jobs.supervision import EXPERIMENT_VARIABLE, SUPERVISOR
from pipeline.doctor.apart import apart
from pipeline.doctor.checks import examine
from pipeline.tracking.client import EXPERIMENT, client
from tests.conftest import ROOT

PIPELINE = """
stages:
  make:
    matrix: {size: [big]}
    cmd: mkdir -p made && cp source.txt made/${item.size}.txt
    deps: [source.txt]
    outs: ["made/${item.size}.txt"]
"""
RWLOCK = """
from dvc.fs import localfs
from dvc.rwlock import rwlock
held = rwlock(".dvc/tmp", localfs, "-c", ["source.txt"], ["made/big.txt"], False)
held.__enter__()
"""
LINK = """
from dvc.lock import make_lock
make_lock(".dvc/tmp/lock", tmp_dir=".dvc/tmp", hardlink_lock=True).lock()
"""
DVC_LOCK = """
from dvc.lock import make_lock
held = make_lock(".dvc/tmp/lock")
held.lock()
"""
WALK = """
from pathlib import Path
from pipeline.experiments import hold
held = hold(Path())
"""
WRITE_FILE = """
from shards.files import whole_file
held = whole_file("made/small.txt")
held.__enter__().write(b"half")
"""
WRITE_FOLDER = """
from shards.files import whole_folder
held = whole_folder(".semmae/scratch/pretrain-mae-0/abc/new")
(held.__enter__() / "half").touch()
"""
REPLAY = """
from pipeline.tracking import replay, writer
def stop(*arguments):
    print("ready", flush=True)
    signal.pause()
writer.write_content = stop
replay.replay()
"""
SCRATCH = """
from pathlib import Path
from shards.locks import lock
held = lock(Path(".semmae/scratch/pretrain-mae-0/abc"), "pretrain-mae-0")
Path(".semmae/scratch/pretrain-mae-0/abc/checkpoint.pt").touch()
"""
WAIT = "print('ready', flush=True); signal.pause()"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A git and DVC repository of one stage, which has run, under a commit without dvc.lock."""
    folder = tmp_path_factory.mktemp("original") / "tree"
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".gitignore", ".dvcignore", "runtime.yaml"):
        shutil.copyfile(ROOT / name, folder / name)
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "source.txt").write_text("source")
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "all of it")
    dvc(folder, "repro", "-q")
    return folder


@pytest.fixture
def tree(original, tmp_path, monkeypatch):
    """A copy of it, in which we are."""
    return enter(original, tmp_path, monkeypatch)


def enter(original, tmp_path, monkeypatch):
    """Go into a copy of a repository, without the addresses of servers."""
    folder = shutil.copytree(original, tmp_path / "tree", symlinks=True)
    monkeypatch.chdir(folder)
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", SUPERVISOR, EXPERIMENT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def start(tree):
    """Start a process in the tree that runs `code` and waits; it is there when this returns. All end with the test."""
    with contextlib.ExitStack() as stack:

        def begin(code, **environment):
            process = subprocess.Popen(
                [sys.executable, "-c", f"import signal\n{code}\n{WAIT}"],
                cwd=tree, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout.readline() == "ready\n"
            return process

        yield begin


@pytest.fixture
def killed(start):
    """The same, killed with -9."""

    def begin(code, **environment):
        process = start(code, **environment)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return process

    return begin


def git(folder, *words):
    known = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *known, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder, message):
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)


def dvc(folder, *words):
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def files(folder):
    """Path -> when it was written; but of files that are only there to be locked."""
    found = (path for path in folder.rglob("*") if path.is_file() and "lock" not in (path.name, path.suffix[1:]))
    return {path: path.stat().st_mtime_ns for path in found if path.name != "dvc.lock"} | {
        path: path.read_bytes() for path in folder.rglob("dvc.lock")
    }


def mend(expected):
    """Examine, repair, and examine again; `expected` are words of each finding, in order. Returns the lines after the repair."""
    found = lines()
    assert len(found) == len(expected), found
    assert lines() == found
    mended = lines(repair=True)
    for before, after, words in zip(found, mended, expected, strict=True):
        assert words in before and words in after and "\n" not in before + after
        assert "repair" in before and "repair" not in after
    assert examine(repair=False) == []
    return mended


def lines(*, repair=False):
    """A line for each finding."""
    return list(map(str, examine(repair=repair)))


def write_record(tree, status, stage="make@big"):
    record = {"stage": stage, "started": 1000.0, "seconds": 3.0, "peak_mib": 4.0, "cpu_seconds": 5.0, "status": status}
    write_note(tree / ".semmae" / "records" / f"{stage}.json", record)


def statuses():
    """Name and status of all runs: what a new process sees, for MLflow keeps a database open that was moved."""
    return apart(_statuses)


def _statuses():
    with client() as mlflow_client:
        experiment = mlflow_client.get_experiment_by_name(EXPERIMENT).experiment_id
        return sorted((run.info.run_name, run.info.status) for run in mlflow_client.search_runs([experiment]))
