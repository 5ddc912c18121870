"""DVC's own locks in a tree: whether a living process holds one, and what dead holders left.

`.dvc/tmp/lock` is held while dvc.lock is read or written. `.dvc/tmp/rwlock` lists the paths of running stages with the process
of each, and is edited under `.dvc/tmp/rwlock.lock`. The two locks are flocks, which end with their holder: their files alone
mean nothing. With `core.hardlink_lock` the file itself is the lock, for a year.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from pipeline.doctor.findings import REMOVE, Finding
from pipeline.doctor.processes import CLOCK_SECONDS, RUN_VARIABLE, was_made_by
from pipeline.experiments import is_walked
from pipeline.scheduling.services import state
from shards.files import write_json

LOCKS = ("lock", "rwlock.lock")
GONE = "a lock whose DVC is gone"
# When rwlock was written, and its read and write locks by path.
Listed = tuple[float, Mapping[str, Mapping[str, Any]]]


def dead_dvc_locks(tree: Path, *, repair: bool) -> Iterator[Finding]:
    """Locks whose DVC is gone. A lock file that is a flock means nothing, and is no finding."""
    for path in dead_links(tree):
        if repair:
            path.unlink(missing_ok=True)
        yield Finding(f"{path}", GONE, REMOVE[repair])
    for detail in dead_entries(tree, remove=repair):
        yield Finding(f"{_rwlock(tree)}", GONE, REMOVE[repair], detail)


def is_at_work(tree: Path) -> bool:
    """Whether a walk, or DVC by itself, is at work in `tree`."""
    if is_walked(tree):
        return True
    # Under the lock, because whoever edits rwlock in place holds it.
    with holding(tree) as is_ours:
        if not is_ours and not dead_links(tree):
            return True
        return runs_stages(tree)


def runs_stages(tree: Path) -> bool:
    """Whether a DVC runs stages in `tree`."""
    return any(is_alive for _, _, _, is_alive in _entries(_read(tree)))


@contextlib.contextmanager
def holding(tree: Path, name: str = "lock") -> Iterator[bool]:
    """Hold one of `LOCKS` of `tree` as DVC does; False where another process has it for longer than DVC waits."""
    from dvc.lock import LockError, make_lock

    folder = _folder(tree)
    folder.mkdir(exist_ok=True)
    held = make_lock(str(folder / name), tmp_dir=str(folder), hardlink_lock=_is_linked(tree))
    try:
        held.lock()
    except LockError:
        yield False
        return
    try:
        yield True
    finally:
        held.unlock()


def dead_links(tree: Path) -> list[Path]:
    """The lock files under `core.hardlink_lock` that no living process can have made.

    They do not name their process (DVC hashes it): any Python or DVC process that has worked in this tree since before the
    lock was last touched counts as its holder, except the servers of `semmae up`.
    """
    if not _is_linked(tree):
        return []
    links = [path for path in (_folder(tree) / name for name in LOCKS) if path.is_file()]
    return [path for path in links if not _may_be_held(tree, path.stat().st_ctime)]


def _may_be_held(tree: Path, touched: float) -> bool:
    servers = {int(noted["process"].partition(":")[0]) for noted in state().values()}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            is_there = Path(process.cwd()).is_relative_to(tree.resolve()) and process.pid != os.getpid()
            is_able = re.search(r"python|\bdvc\b", " ".join(process.cmdline()[:2]))
            # The servers of `semmae up` stay in this folder, each in a session of its own.
            is_server = os.getsid(process.pid) in servers and not process.environ().get(RUN_VARIABLE)
            if is_there and is_able and not is_server and process.create_time() <= touched + CLOCK_SECONDS:
                return True
    return False


def dead_entries(tree: Path, *, remove: bool) -> list[str]:
    """The entries of dead processes in rwlock, or that it is damaged, because DVC writes it in place.

    A first look without DVC's own guard is repeated under it. Whoever holds the guard for long is alive and at work, and then
    there is no finding.
    """
    first = _read(tree)
    if first is not None and all(is_alive for _, _, _, is_alive in _entries(first)):
        return []
    with holding(tree, "rwlock.lock") as is_ours:
        listed = _read(tree)
        if not is_ours or (listed is None and is_walked(tree)):
            return []
        entries = _entries(listed)
        dead = [f"{name}: {info['cmd']}, process {info['pid']}" for _, name, info, is_alive in entries if not is_alive]
        faults = ["not what DVC writes: cut off in the middle perhaps"] if listed is None else dead
        if remove and faults:
            left: dict[str, dict[str, Any]] = {"read": {}, "write": {}}
            for kind, name, info, is_alive in entries:
                if is_alive and kind == "read":
                    left[kind].setdefault(name, []).append(info)
                elif is_alive:
                    left[kind][name] = info
            write_json(_rwlock(tree), left)
        return faults


def _entries(rwlock: Listed | None) -> list[tuple[str, str, dict[str, Any], bool]]:
    """(read or write, path, process, whether it lives) of all entries of rwlock."""
    if rwlock is None:
        return []
    moment, kinds = rwlock
    listed = [(kind, name, infos) for kind in ("read", "write") for name, infos in kinds.get(kind, {}).items()]
    return [
        (kind, name, info, was_made_by(info["pid"], moment, info["cmd"].partition(" ")[2]))
        for kind, name, infos in listed
        for info in (infos if isinstance(infos, list) else [infos])
    ]


def _read(tree: Path) -> Listed | None:
    """Rwlock and when it was written; None where DVC cannot read it, and then DVC refuses to run anything."""
    from dvc.rwlock import SCHEMA
    from voluptuous import Invalid

    path = _rwlock(tree)
    if not path.is_file():
        return 0.0, {}
    try:
        return path.stat().st_mtime, SCHEMA(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, Invalid):
        return None


def _rwlock(tree: Path) -> Path:
    return _folder(tree) / "rwlock"


def _is_linked(tree: Path) -> bool:
    from dvc.config import Config

    return bool(Config(str(tree / ".dvc"))["core"].get("hardlink_lock", False))


def _folder(tree: Path) -> Path:
    return tree / ".dvc" / "tmp"
