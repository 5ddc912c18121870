"""Cores and GPUs as slots: a file lock each, which the kernel releases when its holder dies.

All walks of this repository and its worktrees share them; SEMMAE_SLOTS names a folder that several repositories share.
"""

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from jobs.state import state_folder

CPU, GPU = "cpu", "gpu"
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Needs:
    """The slots that a stage occupies: `count` cores or GPUs."""

    kind: str
    count: int


def available(kind: str) -> int:
    """How many cores this process may use, or how many GPUs: all, or those of CUDA_VISIBLE_DEVICES if it is set."""
    return len(cores() if kind == CPU else gpus())


def cores() -> tuple[str, ...]:
    """The numbers of the cores that this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return tuple(str(core) for core in sorted(allowed))


@cache
def gpus() -> tuple[str, ...]:
    """The names of the GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for name in map(str.strip, visible.split(",")) if name not in ("", "-1"))
    try:
        answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    except OSError:
        return ()
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    return tuple(str(place) for place, line in enumerate(lines) if line.startswith("GPU "))


def needs_of(device: str, *, threads: int, processes: int, allowed: str) -> Needs:
    """The slots of a stage with `meta.device` under `compute`: its device `allowed`, `threads` and `processes`.

    Without a GPU everything runs on cores. A need for more than the machine has is cut to all of them.
    """
    if device == GPU and allowed != CPU and available(GPU):
        return Needs(GPU, min(processes, available(GPU)))
    return Needs(CPU, min(threads * processes, available(CPU)))


@contextlib.contextmanager
def occupy(needs: Needs, *, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[list[str]]:
    """Wait for the slots, hold them, and yield their names; InterruptedError if `is_cancelled` becomes true while it waits.

    Takes all at once or none, one taker at a time: two that want many cannot each hold half and wait for the other.
    """
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    held: list[tuple[str, IO[str]]] = []
    while not held:
        if is_cancelled():
            raise InterruptedError("cancelled while waiting for a slot")
        with open(folder / "gate", "a", encoding="utf-8") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            held = _take(folder, needs)
        if not held:
            time.sleep(LOOK_SECONDS)
    try:
        yield [name for name, _ in held]
    finally:
        for _, file in held:
            file.close()


def _folder() -> Path:
    return Path(os.environ.get("SEMMAE_SLOTS") or state_folder() / "slots")


def _take(folder: Path, needs: Needs) -> list[tuple[str, IO[str]]]:
    held: list[tuple[str, IO[str]]] = []
    for name in cores() if needs.kind == CPU else gpus():
        file = _locked(folder / f"{needs.kind}-{name.replace('/', '_')}")
        if file is not None:
            held.append((name, file))
        if len(held) == needs.count:
            return held
    for _, file in held:
        file.close()
    return []


def _locked(path: Path) -> IO[str] | None:
    file = open(path, "a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextlib.contextmanager
def alone(
    job: str, *, is_cancelled: Callable[[], bool] = lambda: False, on_wait: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Wait until no other walk of this repository runs `job`, then keep others from it; InterruptedError as `occupy`.

    Without it two experiments that need the same result would both compute it, or collide at its checkpoint. With it the
    second finds the result in DVC's run cache. on_wait: called once if it has to wait.
    """
    path = state_folder() / "jobs" / job
    path.parent.mkdir(parents=True, exist_ok=True)
    waited = False
    while (file := _locked_as_named(path)) is None:
        if is_cancelled():
            raise InterruptedError("cancelled while waiting for another walk")
        if not waited:
            waited = True
            on_wait()
        time.sleep(LOOK_SECONDS)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _locked_as_named(path: Path) -> IO[str] | None:
    file = _locked(path)
    try:
        # The last holder may have removed the file after it was opened here: a lock on that file keeps nobody out.
        if file is None or os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except FileNotFoundError:
        pass
    if file is not None:
        file.close()
    return None
