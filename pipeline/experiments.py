"""Experiments beside the user's tree: each in a git worktree, saved as a DVC experiment at the end."""

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.names import EXPERIMENT, shown
from config.presets import read_document
from jobs.git import author, git
from jobs.notes import is_sound, read_note, write_note
from jobs.state import STATE_FOLDER, WORKTREES, state_folder
from pipeline.parameters import same_values
from pipeline.worktree import discard, make, restore, untracked_code
from shards.locks import lock

RUNNING, FINISHED, STOPPED = "running", "finished", "stopped"


@dataclass(frozen=True)
class Experiment:
    """An experiment's worktree. status: `running` while a process holds its lock, `finished` once saved, else `stopped`."""

    name: str
    folder: Path
    status: str
    started: float


def prepare(name: str, document: Any, *, preset: str = "") -> Path:
    """The worktree of experiment `name` with these parameters, made from the tree of the current folder as it lies.

    If an experiment of this name and these parameters was interrupted, its worktree is used again. Raises ValueError if the
    name is taken by an experiment that is finished or has other parameters.
    """
    if not re.fullmatch(EXPERIMENT, name):
        raise ValueError(
            f"experiment {shown(name)}: use letters, digits, `_`, `-` and single dots between them, at most 61"
        )
    folder = _folder() / name
    with _lock():
        if _read(name) and folder.is_dir():
            return _again(name, folder, document)
        if name in _saved():
            raise ValueError(f"experiment {name}: DVC has one; choose another name, or `dvc exp remove {name}`")
        if folder.is_symlink() or _is_revision(name):
            raise ValueError(f"experiment {name}: the name means something else to git and DVC; choose another")
        make(folder, document, preset)
        _note_path(name).unlink(missing_ok=True)
        # Last: a folder without this note is half made, and is made anew.
        _note(name, started=time.time())
    return folder


def _again(name: str, folder: Path, document: Any) -> Path:
    if _read(name).get("finished"):
        raise ValueError(
            f"experiment {name}: finished; choose another name, or `semmae gc` and `dvc exp remove {name}`"
        )
    if not same_values(read_document(folder / "params.yaml"), document):
        raise ValueError(f"experiment {name}: lies in {folder} with other parameters; choose another name")
    return folder


@contextlib.contextmanager
def draft(document: Any, *, preset: str = "") -> Iterator[Path]:
    """A temporary worktree, as `prepare` and `restore` make it, to see what would run there."""
    folder = _folder() / ".draft"
    with _lock():
        try:
            make(folder, document, preset)
            restore(folder)
            yield folder
        finally:
            discard(folder)


def save(name: str) -> None:
    """Save the worktree as a DVC experiment of this repository, for `dvc exp show`, `apply` and `branch`."""
    folder = _folder() / name
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "save", "--force", "--name", name]
    command += [word for path in untracked_code(folder) for word in ("--include-untracked", path)]
    with _lock():
        environment = {**os.environ, **author(folder)}
        answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise ValueError(f"experiment {name}: dvc exp save: {' '.join(answer.stderr.split())}")
        _note(name, finished=time.time())


def worktrees() -> list[Path]:
    """The worktrees of all experiments; the folder's name is the experiment's."""
    return [path.parent for path in sorted(_folder().glob("[!.]*/.git"))]


def experiments() -> list[Experiment]:
    """All experiments that have a worktree, the oldest first."""
    every = []
    for folder in worktrees():
        noted = _read(folder.name)
        status = RUNNING if is_walked(folder) else FINISHED if noted.get("finished") else STOPPED
        every.append(Experiment(folder.name, folder, status, noted.get("started", 0.0)))
    return sorted(every, key=lambda one: one.started)


def damaged_experiments(*, repair: bool) -> Iterator[Path]:
    """The notes of experiments that cannot be read. repair: write them anew; a worktree without a note counts as half made."""
    for path in sorted((state_folder() / "experiments").glob("*.json")):
        with _lock():
            if is_sound(path):
                continue
            if repair:
                written = path.stat().st_mtime
                write_note(path, {"started": written, **({"finished": written} if path.stem in _saved() else {})})
        yield path


def remove(experiment: Experiment) -> None:
    """Remove the worktree; a saved DVC experiment and the cache stay. ValueError while a walk runs in it."""
    with _lock():
        if _is_held(experiment.folder):
            raise ValueError(f"experiment {experiment.name}: a walk runs in {experiment.folder}; wait for it")
        discard(experiment.folder)
        _note_path(experiment.name).unlink(missing_ok=True)


def hold(root: Path) -> Any:
    """Hold the tree at `root` for a walk until the returned file is closed; ValueError if another walk holds it.

    The returned file is empty; a flow run writes its id into it.
    """
    # `is_walked` takes the walk lock for a moment, under this one: it must not be mistaken for a walk.
    with _lock():
        held = lock(root / STATE_FOLDER / "walk", f"a walk in {root}")
    held.truncate(0)
    return held


def is_walked(root: Path) -> bool:
    """Whether a walk holds the tree now."""
    with _lock():
        return _is_held(root)


def _is_held(root: Path) -> bool:
    path = root / STATE_FOLDER / "walk" / "lock"
    if not path.is_file():
        return False
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _saved() -> set[str]:
    listed = git("for-each-ref", "--format=%(refname)", "refs/exps")
    return {line.rpartition("/")[2] for line in listed.splitlines()}


def _is_revision(name: str) -> bool:
    try:
        return name == "workspace" or bool(git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"))
    except ValueError:
        return False


def _folder() -> Path:
    return state_folder() / WORKTREES


def _note_path(name: str) -> Path:
    return state_folder() / "experiments" / f"{name}.json"


def _read(name: str) -> dict[str, Any]:
    return read_note(_note_path(name))


def _note(name: str, **facts: Any) -> None:
    write_note(_note_path(name), {**_read(name), **facts})


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """One process at a time changes git's list of worktrees and DVC's experiments. Not reentrant."""
    path = state_folder() / "experiments.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
