"""DVC's own locks in a tree: whether a living process holds one, and what dead holders left.

`.dvc/tmp/lock` is held while dvc.lock is read or written. `.dvc/tmp/rwlock` lists the paths of running stages with the process
of each, and is edited under `.dvc/tmp/rwlock.lock`. The two locks are flocks, which end with their holder: their files alone
mean nothing.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.doctor.findings import REMOVE, Finding
from pipeline.doctor.processes import was_made_by
from pipeline.experiments import is_walked
from shards.files import write_json

GONE = "a lock whose DVC is gone"
# When rwlock was written, and its read and write locks by path.
Listed = tuple[float, Mapping[str, Mapping[str, Any]]]


def dead_dvc_locks(tree: Path, *, repair: bool) -> Iterator[Finding]:
    """Entries of rwlock whose DVC is gone."""
    for detail in dead_entries(tree, remove=repair):
        yield Finding(f"{_rwlock(tree)}", GONE, REMOVE[repair], detail)


def is_at_work(tree: Path) -> bool:
    """Whether a walk, or DVC by itself, is at work in `tree`."""
    if is_walked(tree):
        return True
    # Under the lock, because whoever edits rwlock in place holds it.
    with holding(tree) as is_ours:
        return not is_ours or runs_stages(tree)


def runs_stages(tree: Path) -> bool:
    """Whether a DVC runs stages in `tree`."""
    return any(is_alive for _, _, _, is_alive in _entries(_read(tree)))


@contextlib.contextmanager
def holding(tree: Path, name: str = "lock") -> Iterator[bool]:
    """Hold a lock of `tree` as DVC does; False where another process has it for longer than DVC waits."""
    from dvc.lock import LockError, make_lock

    folder = _folder(tree)
    folder.mkdir(exist_ok=True)
    held = make_lock(str(folder / name), tmp_dir=str(folder))
    try:
        held.lock()
    except LockError:
        yield False
        return
    try:
        yield True
    finally:
        held.unlock()


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


def _folder(tree: Path) -> Path:
    return tree / ".dvc" / "tmp"
