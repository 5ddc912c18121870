"""Cores and GPUs of this machine, shared by every walk on it: a file lock each, which the kernel releases with its holder."""

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

from pipeline.files import state_folder

CPU, GPU = "cpu", "gpu"
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Needs:
    """What a stage occupies: `count` cores or GPUs."""

    kind: str
    count: int


@cache
def available(kind: str) -> int:
    """Cores that this process may use, or GPUs of the machine (those of CUDA_VISIBLE_DEVICES where it is set)."""
    if kind == CPU:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return len(gpus())


@cache
def gpus() -> tuple[str, ...]:
    """The devices as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for name in visible.split(",") if name not in ("", "-1"))
    try:
        answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    except OSError:
        return ()
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    return tuple(str(place) for place, line in enumerate(lines) if line.startswith("GPU "))


def needs_of(device: str, *, threads: int, processes: int, allowed: str) -> Needs:
    """What a stage of `meta.device` occupies under `compute`: device `allowed`, `threads` and `processes`.

    A machine without GPU runs everything on its cores. More than there is counts as all there is.
    """
    if device == GPU and allowed != CPU and available(GPU):
        return Needs(GPU, min(processes, available(GPU)))
    return Needs(CPU, min(threads * processes, available(CPU)))


@contextlib.contextmanager
def occupy(needs: Needs, *, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[list[str]]:
    """Wait for the slots, hold them, and yield their names; InterruptedError when `is_cancelled` turns true while waiting.

    All at once or none, one taker at a time: two who want many cannot wait for each other's half.
    """
    folder = state_folder() / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    held: list[tuple[str, IO[str]]] = []
    while not held:
        if is_cancelled():
            raise InterruptedError("cancelled while it waited for a slot")
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


def _take(folder: Path, needs: Needs) -> list[tuple[str, IO[str]]]:
    names = [str(core) for core in range(available(CPU))] if needs.kind == CPU else gpus()
    held: list[tuple[str, IO[str]]] = []
    for name in names:
        file = open(folder / f"{needs.kind}-{name}", "a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        held.append((name, file))
        if len(held) == needs.count:
            return held
    for _, file in held:
        file.close()
    return []


def held_slots() -> list[str]:
    """Slots that somebody holds at this moment, as `cpu-0`."""
    found = []
    for path in sorted((state_folder() / "slots").glob("?pu-*")):
        with open(path, "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(path.name)
    return found
