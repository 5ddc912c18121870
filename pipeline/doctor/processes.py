"""Processes of this machine, told from later ones of the same number and by what stands in their environment."""

from collections.abc import Iterator

import psutil

# Start times of processes are known to a second, times of files to less.
CLOCK_SECONDS = 1.0
# Of every process that a Prefect worker starts for a flow run.
RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"


def was_made_by(pid: int, moment: float, command: str = "") -> bool:
    """Whether the living process `pid` can have done something at `moment`, and is no later one of the same number.

    command: words that its command line must hold.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > moment + CLOCK_SECONDS:
            return False
        told = " ".join(process.cmdline())
        return all(word in told for word in command.split())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def with_variable(name: str) -> Iterator[tuple[psutil.Process, str]]:
    """The processes that have a variable in their environment, each with its value; those of other users are not seen."""
    for process in psutil.process_iter():
        try:
            value = process.environ().get(name)
        except psutil.Error:
            continue
        if value:
            yield process, value
