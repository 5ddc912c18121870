"""Processes of this machine: whether one is the one of an earlier moment, and which have a variable in their environment."""

from collections.abc import Iterator

import psutil

# Start times of processes are known to a second, times of files to less.
CLOCK_SECONDS = 1.0
# Set in every process that a Prefect worker starts for a flow run.
RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"


def was_made_by(pid: int, moment: float, command: str = "") -> bool:
    """Whether the process `pid` lives and began before `moment`, so that it is no later one of the same number.

    command: words that its command line must hold.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > moment + CLOCK_SECONDS:
            return False
        actual = " ".join(process.cmdline())
        return all(word in actual for word in command.split())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def with_variable(name: str) -> Iterator[tuple[psutil.Process, str]]:
    """The processes that have a variable in their environment, each with its value, except those of other users."""
    for process in psutil.process_iter():
        try:
            value = process.environ().get(name)
        except psutil.Error:
            continue
        if value:
            yield process, value
