"""A small repository of shell stages, which DVC runs in a second or two each, and what its tests share."""

import contextlib
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from config.presets import compose, write_params
from pipeline import slots
from tests.conftest import ROOT

IDENTITY = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def make_small(folder, stages, files=None):
    """A git and DVC repository with a dvc.yaml of `stages`, the quickstart's parameters for one thread, and `files`."""
    shutil.copytree(ROOT / "presets", folder / "presets")
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "runtime.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    with contextlib.chdir(ROOT):
        document = compose("quickstart")
    document["compute"]["threads"] = 1
    document["data"].update(path="mine", watch="mine", generate=[], part_truth=[])
    write_params(document, folder / "params.yaml", preset="quickstart")
    for name, text in {
        "dvc.yaml": stages,
        ".gitignore": "/out/\n/.semmae/\n/tracking/\n/mine/\n",
        **(files or {}),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "image.txt").write_text("an image")
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "small"]):
        subprocess.run(["git", *words], cwd=folder, check=True, env={**os.environ, **IDENTITY})
    return folder


@pytest.fixture(scope="module")
def surroundings():
    """The environment of every process of these tests: this code, this Python, an author for commits."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**IDENTITY, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1", "SHELL": "/bin/sh"}.items():
            patch.setenv(name, value)
        patch.setenv("PATH", os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"])))
        # Without SEMMAE_SLOTS each repository has slots of its own, and no test waits for those of another.
        for name in (
            "MLFLOW_TRACKING_URI",
            "PREFECT_API_URL",
            "SEMMAE_EXPERIMENT",
            "CUDA_VISIBLE_DEVICES",
            "SEMMAE_SLOTS",
        ):
            patch.delenv(name, raising=False)
        yield patch


def enter_copy(folder, target, monkeypatch):
    """A copy of a repository that one test may change, as the current folder; it has two cores and two GPUs."""
    shutil.copytree(folder, target, symlinks=True)
    monkeypatch.chdir(target)
    monkeypatch.setattr(slots, "cores", lambda: ("0", "1"))
    monkeypatch.setattr(slots, "gpus", lambda: ("4", "9"))
    return target


def repro(folder, *words):
    """Run DVC and return what it printed."""
    command = [sys.executable, "-m", "dvc", *words]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def digest_by_path(folder):
    """Path -> MD5 of all outs in dvc.lock."""
    from jobs.dvc_lock import stage_entries

    entries = stage_entries(Path(folder) / "dvc.lock").values()
    return {out["path"]: out["md5"] for entry in entries for out in entry.get("outs", [])}


def runs(pid):
    """Whether there is a process of this number that is not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def mark():
    """Seconds to sleep that no other process on this machine has in its command."""
    mark = f"600.{uuid.uuid4().int % 10**8}"
    yield mark
    for process in marked(mark):
        process.kill()


def marked(mark):
    """The processes that have `mark` in their command."""
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if any(mark in word for word in process.info["cmdline"] or [])]


def held_slots():
    """The slots that are held at this moment, as `cpu-0`."""
    locks = {path.name: slots._locked(path) for path in sorted(slots._folder().glob("?pu-*"))}
    for lock in filter(None, locks.values()):
        lock.close()
    return [name for name, lock in locks.items() if lock is None]
