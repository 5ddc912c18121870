"""No process outlives the one that answers for it: what a walk starts ends when the walk does, however that was killed.

Differs: PR_SET_PDEATHSIG would say so at once, but to the direct child alone, and DVC and a shell stand between a walk
and its stages; it also fires when the thread that started the child ends.
"""

import contextlib
import os
import signal
import threading
import time

import psutil

SUPERVISOR = "SEMMAE_SUPERVISOR"
LOOK_SECONDS = 1.0
# What a terminated process may still do, its checkpoint above all.
GRACE_SECONDS = 25.0


def identity(pid: int) -> str:
    """A name for a process that no later one of the same number has; empty where there is none."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{pid}:{process.create_time():.2f}"
    except psutil.Error:
        return ""


def is_alive(name: str) -> bool:
    """Whether the process of this `identity` is still there."""
    return bool(name) and identity(int(name.partition(":")[0])) == name


def follow(name: str | None) -> None:
    """Watch the process `name` from a thread: when it is gone, this process gets SIGTERM, and SIGKILL `GRACE_SECONDS` later.

    None: no supervisor, nothing to do.
    """
    if name:
        threading.Thread(target=_watch, args=(name,), daemon=True, name="supervisor").start()


def _watch(name: str) -> None:
    while is_alive(name):
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def end_tree(pid: int, grace: float = GRACE_SECONDS) -> None:
    """SIGTERM to a process and all below it, SIGKILL to what is left after `grace` seconds; returns when all are gone."""
    try:
        top = psutil.Process(pid)
        processes = [*top.children(recursive=True), top]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        _signal(process, signal.SIGTERM)
    _, left = psutil.wait_procs(processes, timeout=grace)
    for process in left:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(left, timeout=grace)


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
