"""Experiments beside the user's tree: a git worktree each, with DVC's cache shared, saved as a DVC experiment at the end."""

import fcntl
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files import STATE_FOLDER, main_worktree, read_json, state_folder, write_json, write_text
from pipeline.locks import lock
from pipeline.presets import check, compose, preset_of, read_document, write_params

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")
RUNNING, FINISHED, STOPPED = "running", "finished", "stopped"


@dataclass(frozen=True)
class Experiment:
    """A worktree and what is known of it. status: `running` while a process holds its lock, `finished` when it is saved."""

    name: str
    folder: Path
    status: str
    started: float


def changed(
    *, preset: str = "", arms: Sequence[str] = (), seeds: Sequence[int] = (), changes: Mapping[str, Any] | None = None
) -> tuple[Any, str]:
    """The parameter document of params.yaml, or of a preset, with changes over it, and the preset's name.

    changes: dotted key -> value, for keys that exist. Raises ValueError for an unknown key or an impossible value.
    """
    names = preset.split()
    document = compose(*names) if names else read_document()
    if names:
        # Whose images these are is not the preset's business.
        document["data"] = read_document()["data"]
    if arms:
        document["arms"]["names"] = list(arms)
    if seeds:
        document["seeds"] = list(seeds)
    for key, value in (changes or {}).items():
        *groups, last = key.split(".")
        place = document
        for group in groups:
            place = place.get(group) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise ValueError(f"{key}: no such parameter; params.yaml names them all, as group.name")
        place[last] = value
    return check(document, "parameters"), preset or preset_of("params.yaml")


def is_as_here(document: Any) -> bool:
    """Whether a parameter document says what params.yaml of this folder says."""
    return _plain(document) == _plain(read_document())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def prepare(name: str, document: Any, *, preset: str = "") -> Path:
    """The worktree of experiment `name` with these parameters, made from what lies in the main one, uncommitted changes too.

    An experiment of this name that was interrupted is gone on with. Raises ValueError when the name is taken by one with
    other parameters, or by a finished one.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"experiment {name!r}: use letters, digits, `_`, `.` and `-`")
    folder = _folder() / name
    with _lock():
        if folder.is_dir():
            return _again(name, folder, document)
        if name in _saved():
            raise ValueError(f"experiment {name}: there is a DVC experiment of this name; choose another")
        _make(folder)
        write_params(document, folder / "params.yaml", preset=preset)
        _note(name, started=time.time())
    return folder


def _again(name: str, folder: Path, document: Any) -> Path:
    if _read(name).get("finished"):
        raise ValueError(f"experiment {name}: finished; choose another name, or remove it with `semmae gc`")
    if _plain(read_document(folder / "params.yaml")) != _plain(document):
        raise ValueError(f"experiment {name}: lies in {folder} with other parameters; choose another name")
    return folder


def _make(folder: Path) -> None:
    main = main_worktree()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _git("worktree", "prune")
    _git("worktree", "add", "--quiet", "--detach", str(folder), "HEAD")
    uncommitted = _git("stash", "create")
    if uncommitted:
        # The files of the working tree, over the commit that the experiment is compared with.
        _git("read-tree", "-m", "-u", "HEAD", uncommitted, folder=folder)
    if (main / "dvc.lock").is_file():
        shutil.copyfile(main / "dvc.lock", folder / "dvc.lock")
    # Links: what the cache has lies on the disk once.
    write_text(
        folder / ".dvc" / "config.local", f"[cache]\n    dir = {_cache_of(main)}\n    type = reflink,hardlink,copy\n"
    )
    _link_inputs(folder, main)


def _cache_of(root: Path) -> str:
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    return str((root / found).resolve())


def _link_inputs(folder: Path, main: Path) -> None:
    """Let the worktree see what the main one reads and git does not have: images, checkpoints, listings."""
    from dvc.repo import Repo

    with Repo(str(main)) as repo:
        outs = {Path(out.fs_path) for out in repo.index.outs}
        deps = {Path(dep.fs_path) for dep in repo.index.deps}
    deps.add(main / str(read_document(main / "params.yaml")["data"]["path"]))
    for path in sorted(deps):
        made = any(path == out or out in path.parents or path in out.parents for out in outs)
        if made or not path.is_relative_to(main) or not path.exists():
            continue
        target = folder / path.relative_to(main)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)


def restore(folder: Path) -> None:
    """Bring in every out that the cache has for the jobs of dvc.lock: what is unchanged is not even looked at by a walk."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "checkout", "--quiet", "--allow-missing", "--force"]
    subprocess.run(command, cwd=folder, capture_output=True, check=False)


def save(name: str) -> None:
    """Make the worktree's state a DVC experiment of the main one: `dvc exp show`, `apply`, `branch`."""
    folder = _folder() / name
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "save", "--force", "--name", name]
    with _lock():
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise ValueError(f"experiment {name}: dvc exp save: {' '.join(answer.stderr.split())}")
        _note(name, finished=time.time())


def experiments() -> list[Experiment]:
    """All whose worktrees are here, the oldest first."""
    found = []
    for folder in sorted(_folder().glob("*/")):
        noted = _read(folder.name)
        status = RUNNING if is_walked(folder) else FINISHED if noted.get("finished") else STOPPED
        found.append(Experiment(folder.name, folder, status, noted.get("started", 0.0)))
    return sorted(found, key=lambda one: one.started)


def remove(experiment: Experiment) -> None:
    """Remove the worktree; what was saved stays a DVC experiment, and the cache keeps its outs."""
    with _lock():
        _git("worktree", "remove", "--force", str(experiment.folder))
        _note_path(experiment.name).unlink(missing_ok=True)


def hold(root: Path) -> Any:
    """Hold the tree at `root` for a walk until the returned file is closed; ValueError when another walk has it."""
    return lock(root / STATE_FOLDER / "walk", f"a walk in {root}")


def is_walked(root: Path) -> bool:
    """Whether a walk holds the tree at this moment."""
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
    listed = _git("for-each-ref", "--format=%(refname)", "refs/exps")
    return {line.rpartition("/")[2] for line in listed.splitlines()}


def _folder() -> Path:
    return state_folder() / "worktrees"


def _note_path(name: str) -> Path:
    return state_folder() / "experiments" / f"{name}.json"


def _read(name: str) -> dict[str, Any]:
    return read_json(_note_path(name)) if _note_path(name).is_file() else {}


def _note(name: str, **facts: Any) -> None:
    write_json(_note_path(name), {**_read(name), **facts})


def _lock() -> Any:
    """Git changes its list of worktrees, and DVC its experiments, for one process at a time."""
    return _waited(state_folder() / "experiments.lock")


class _waited:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "a", encoding="utf-8")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *exception: object) -> None:
        self.file.close()


def _git(*words: str, folder: Path | None = None) -> str:
    answer = subprocess.run(
        ["git", "-C", str(folder or main_worktree()), *words], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise ValueError(f"git {words[0]}: {' '.join(answer.stderr.split()) or answer.returncode}")
    return answer.stdout.strip()
