"""No process outlives the one that answers for it: what a walk starts ends when the walk does, however that was killed.

Differs: PR_SET_PDEATHSIG would say so at once, but to the direct child alone, and DVC and a shell stand between a walk
and its stages; it also fires when the thread that started the child ends.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import psutil

# What a walk tells its stages: who answers for them, and the cores or GPUs they have.
SUPERVISOR, SLOT = "SEMMAE_SUPERVISOR", "SEMMAE_SLOT"
# The name of the experiment whose tree a walk runs in.
EXPERIMENT_VARIABLE = "SEMMAE_EXPERIMENT"
LOOK_SECONDS = 1.0
# What a terminated process may still do, its checkpoint above all.
GRACE_SECONDS = 25.0
# The same for what a process that has saved leaves behind, and for one that neither runs a command nor ends.
ORPHAN_SECONDS = 3.0
IDLE_SECONDS = 5.0
SHELLS = {"sh", "dash", "bash", "zsh", "fish", "ksh"}


def identity(pid: int) -> str:
    """A name for a process that no later one of the same number has; empty where there is none."""
    try:
        # Ticks since the machine started, of which no later process has as few. psutil tells the time of day instead,
        # and that moves when the clock is corrected: then every stage would take its supervisor for dead.
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if words[0] in "ZX" else f"{pid}:{words[19]}@{_boot()}"
    except (FileNotFoundError, ProcessLookupError):
        return "" if Path("/proc/self/stat").exists() else _identity_elsewhere(pid)


@cache
def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="utf-8")[:8] if path.exists() else ""


def _identity_elsewhere(pid: int) -> str:
    """On a system without /proc."""
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

    What this process started and leaves behind is ended after it has saved; its handler of SIGTERM must end it as a
    Python program ends. None: no supervisor, nothing to do.
    """
    if name:
        threading.Thread(target=_watch, args=(name,), daemon=True, name="supervisor").start()


def _watch(name: str) -> None:
    while is_alive(name):
        time.sleep(LOOK_SECONDS)
    # Python waits for a thread that is no daemon: so this one sees the main thread end, and what that leaves.
    threading.Thread(target=_end_this, daemon=False, name="end").start()


def _end_this() -> None:
    started = _below(os.getpid())
    os.kill(os.getpid(), signal.SIGTERM)
    _wait(lambda: not threading.main_thread().is_alive(), GRACE_SECONDS)
    left = {process.pid: process for process in (*started, *_below(os.getpid()))}.values()
    if threading.main_thread().is_alive():
        _signal(left, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    _signal(left, signal.SIGTERM)
    _wait(lambda: not any(map(_runs, left)), ORPHAN_SECONDS)
    _signal(left, signal.SIGKILL)


def end_command(pid: int, grace: float = GRACE_SECONDS) -> None:
    """SIGTERM to what a process runs and waits for, so that it ends by itself; what is left is ended as `end_tree` does.

    DVC writes dvc.lock in place: ended itself, it could leave half of it.
    """
    started = busy = time.monotonic()
    told: set[int] = set()
    shells: set[int] = set()
    while any(map(_runs, _this(pid))) and time.monotonic() < min(started + grace, busy + IDLE_SECONDS):
        commands = list(_commands(pid, shells))
        _signal([command for command in commands if command.pid not in told], signal.SIGTERM)
        told |= {command.pid for command in commands}
        busy = time.monotonic() if _below(pid) else busy
        time.sleep(0.05)
    end_tree(pid, max(0.0, started + grace - time.monotonic()))


def end_tree(pid: int, grace: float = GRACE_SECONDS) -> None:
    """SIGTERM to a process and its session, SIGKILL to what is left of it and of all below it after `grace` seconds.

    Returns when all are gone. The group that the process leads is signalled by the kernel as a whole, so that no child
    that is being forked escapes. Processes in a session of their own, such as torchrun's, get SIGTERM from who started
    them: at a second one torchrun gives up.
    """
    tree = [*_this(pid), *_below(pid)]
    session = _session(pid)
    _signal_group(pid, signal.SIGTERM)
    _signal([one for one in tree if _session(one.pid) == session and not _is_in_group(one.pid, pid)], signal.SIGTERM)
    _wait(lambda: not any(map(_runs, tree)) and not _group(pid), grace)
    left = [*tree, *_group(pid), *_children({process.pid for process in tree})]
    _signal_group(pid, signal.SIGKILL)
    # Parents before their children, which they could start anew.
    _signal(left, signal.SIGKILL)
    _wait(lambda: not any(map(_runs, left)), GRACE_SECONDS)


def _this(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []


def _below(pid: int, *, recursive: bool = True) -> list[psutil.Process]:
    """The descendants of a process, or its children alone."""
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _children(pids: set[int]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.ppid() in pids:
                found.append(process)
    return found


def _commands(pid: int, shells: set[int]) -> Iterator[psutil.Process]:
    """What a process waits for, seen through the shells between them: a shell hands on the exit code of its command.

    shells: those that have been seen with a command, which get their time to do so.
    """
    for child in _below(pid, recursive=False):
        if _runs(child):
            inner = list(_commands(child.pid, shells)) if _name(child) in SHELLS else []
            if inner:
                shells.add(child.pid)
            yield from inner
            if child.pid not in shells:
                yield child


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _group(pid: int) -> list[psutil.Process]:
    """Who runs in the group that the process leads, or led: while there is one, no other process has its number."""
    return [process for process in psutil.process_iter() if _is_in_group(process.pid, pid) and _runs(process)]


def _is_in_group(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group
    except ProcessLookupError:
        return False


def _signal_group(pid: int, number: int) -> None:
    if _group(pid):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _wait(is_over: Callable[[], bool], seconds: float) -> None:
    """Look until `is_over`, for at most `seconds`. Nobody is waited for in the kernel's sense: that is the parent's."""
    deadline = time.monotonic() + seconds
    while not is_over() and time.monotonic() < deadline:
        time.sleep(0.05)
