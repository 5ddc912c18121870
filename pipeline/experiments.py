"""Experiments beside the user's tree: a git worktree each, with DVC's cache shared, saved as a DVC experiment at the end."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.names import EXPERIMENT, shown
from config.presets import check, compose, preset_of, read_document, write_params
from config.redaction import redacted
from jobs.code import ROOMS
from jobs.notes import is_sound, read_note, write_note
from jobs.state import STATE_FOLDER, main_worktree, state_folder
from shards.files import write_text
from shards.locks import lock

# Files in these that git does not know yet are code as well.
CODE_FOLDERS = (*ROOMS, "presets")
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
            raise ValueError(f"{redacted(key)}: no such parameter; params.yaml names them all, as group.name")
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
    """The worktree of experiment `name` with these parameters, made from the tree of the current folder as it lies there.

    An experiment of this name that was interrupted is gone on with. Raises ValueError when the name is taken by one with
    other parameters, or by a finished one.
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
            raise ValueError(f"experiment {name}: there is one in DVC; choose another name, or `dvc exp remove {name}`")
        if folder.is_symlink() or _is_revision(name):
            raise ValueError(f"experiment {name}: the name means something else to git and DVC; choose another")
        _make(folder, document, preset)
        _note_path(name).unlink(missing_ok=True)
        # Last: a folder without it is a half-made one, and is made anew.
        _note(name, started=time.time())
    return folder


def _again(name: str, folder: Path, document: Any) -> Path:
    if _read(name).get("finished"):
        raise ValueError(
            f"experiment {name}: finished; choose another name, or `semmae gc` and `dvc exp remove {name}`"
        )
    if _plain(read_document(folder / "params.yaml")) != _plain(document):
        raise ValueError(f"experiment {name}: lies in {folder} with other parameters; choose another name")
    return folder


@contextlib.contextmanager
def draft(document: Any, *, preset: str = "") -> Iterator[Path]:
    """A worktree as `prepare` and `restore` make it, to look at what would run there; afterwards it is gone."""
    folder = _folder() / ".draft"
    with _lock():
        try:
            _make(folder, document, preset)
            restore(folder)
            yield folder
        finally:
            _discard(folder)


def _make(folder: Path, document: Any, preset: str) -> None:
    here = Path(_git("rev-parse", "--show-toplevel", folder=Path.cwd()))
    folder.parent.mkdir(parents=True, exist_ok=True)
    _discard(folder)
    _git("worktree", "add", "--quiet", "--detach", str(folder), _git("rev-parse", "HEAD", folder=here))
    uncommitted = _uncommitted(here)
    if uncommitted:
        # The files of the working tree, over the commit that the experiment is compared with.
        _git("read-tree", "-m", "-u", "HEAD", uncommitted, folder=folder)
    for path in _untracked_code(here):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(here / path, folder / path)
    if (here / "dvc.lock").is_file():
        shutil.copyfile(here / "dvc.lock", folder / "dvc.lock")
    write_params(document, folder / "params.yaml", preset=preset)
    write_text(folder / ".dvc" / "config.local", f'[cache]\n    dir = "{_cache_of(here)}"\n')
    _link_inputs(folder, here, str(document["data"]["path"]))


def _uncommitted(root: Path) -> str:
    """A commit of the tracked files as they lie there, which changes nothing; empty where they are as in HEAD."""
    answer = subprocess.run(["git", "-C", str(root), "stash", "create"], capture_output=True, text=True, check=False)
    # Where files were touched and are what they were, git ends with 1 and says nothing.
    if answer.returncode and answer.stderr.strip():
        raise ValueError(f"git stash create: {' '.join(answer.stderr.split())}")
    return answer.stdout.strip()


def _untracked_code(root: Path) -> list[str]:
    folders = [name for name in CODE_FOLDERS if (root / name).is_dir()]
    listed = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *folders, folder=root) if folders else ""
    return [path for path in listed.split("\0") if path]


def _cache_of(root: Path) -> str:
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return repo.cache.local_cache_dir


def _link_inputs(folder: Path, here: Path, images: str) -> None:
    """Let the worktree see what it reads and git does not have: images, checkpoints, listings. They lie in `here`."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        outs = {Path(out.def_path) for out in repo.index.outs}
        deps = {os.path.normpath(dep.def_path) for dep in repo.index.deps}
    for dep in map(Path, sorted({*deps, os.path.normpath(images)})):
        path, target = (Path(os.path.normpath(root / dep)) for root in (here, folder))
        made = any(dep == out or out in dep.parents or dep in out.parents for out in outs)
        if made or not path.exists() or path.resolve() == target.resolve():
            continue
        if not target.is_relative_to(folder) and (target.exists() or not target.is_relative_to(_folder())):
            raise ValueError(f"{dep}: leads out of the repository, to another place from a worktree; use {path}")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target) if path.suffix == ".py" else target.symlink_to(path)


def restore(folder: Path) -> None:
    """Bring in every out that the cache has for the jobs of dvc.lock: what is unchanged is not even looked at by a walk."""
    if not (folder / "dvc.lock").is_file():
        return
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "checkout", "--quiet", "--allow-missing", "--force"]
    subprocess.run(command, cwd=folder, capture_output=True, check=False)


def save(name: str) -> None:
    """Make the worktree's state a DVC experiment of this repository: `dvc exp show`, `apply`, `branch`."""
    folder = _folder() / name
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "save", "--force", "--name", name]
    command += [word for path in _untracked_code(folder) for word in ("--include-untracked", path)]
    with _lock():
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise ValueError(f"experiment {name}: dvc exp save: {' '.join(answer.stderr.split())}")
        _note(name, finished=time.time())


def worktrees() -> list[Path]:
    """The worktrees of experiments; each is called as its experiment."""
    return [path.parent for path in sorted(_folder().glob("[!.]*/.git"))]


def experiments() -> list[Experiment]:
    """All whose worktrees are here, the oldest first."""
    found = []
    for folder in worktrees():
        noted = _read(folder.name)
        status = RUNNING if is_walked(folder) else FINISHED if noted.get("finished") else STOPPED
        found.append(Experiment(folder.name, folder, status, noted.get("started", 0.0)))
    return sorted(found, key=lambda one: one.started)


def damaged_experiments(*, repair: bool) -> Iterator[Path]:
    """The notes of experiments that cannot be read. repair: write them anew, for a worktree without one counts as half-made."""
    for path in sorted((state_folder() / "experiments").glob("*.json")):
        with _lock():
            if is_sound(path):
                continue
            if repair:
                written = path.stat().st_mtime
                write_note(path, {"started": written, **({"finished": written} if path.stem in _saved() else {})})
        yield path


def remove(experiment: Experiment) -> None:
    """Remove the worktree; what was saved stays a DVC experiment, and the cache keeps its outs. ValueError while it is walked."""
    with _lock():
        if _is_held(experiment.folder):
            raise ValueError(f"experiment {experiment.name}: a walk is in {experiment.folder}; wait for it")
        _discard(experiment.folder)
        _note_path(experiment.name).unlink(missing_ok=True)


def _discard(folder: Path) -> None:
    """Remove a worktree, also one that is half made."""
    if folder.exists():
        # Links are removed, and not what they lead to.
        shutil.rmtree(folder)
    _git("worktree", "prune")


def hold(root: Path) -> Any:
    """Hold the tree at `root` for a walk until the returned file is closed; ValueError when another walk has it.

    The file is empty: who writes its name into it says whose walk it is.
    """
    # Whoever only looks whether there is one has the lock for a moment, under this one.
    with _lock():
        held = lock(root / STATE_FOLDER / "walk", f"a walk in {root}")
    held.truncate(0)
    return held


def is_walked(root: Path) -> bool:
    """Whether a walk holds the tree at this moment."""
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
    listed = _git("for-each-ref", "--format=%(refname)", "refs/exps")
    return {line.rpartition("/")[2] for line in listed.splitlines()}


def _is_revision(name: str) -> bool:
    try:
        return name == "workspace" or bool(_git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"))
    except ValueError:
        return False


def _folder() -> Path:
    return state_folder() / "worktrees"


def _note_path(name: str) -> Path:
    return state_folder() / "experiments" / f"{name}.json"


def _read(name: str) -> dict[str, Any]:
    return read_note(_note_path(name))


def _note(name: str, **facts: Any) -> None:
    write_note(_note_path(name), {**_read(name), **facts})


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Git changes its list of worktrees, and DVC its experiments, for one process at a time. Not to be taken twice."""
    path = state_folder() / "experiments.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _git(*words: str, folder: Path | None = None) -> str:
    answer = subprocess.run(
        ["git", "-C", str(folder or main_worktree()), *words], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise ValueError(f"git {words[0]}: {' '.join(answer.stderr.split()) or answer.returncode}")
    return answer.stdout.strip()
