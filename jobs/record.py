"""The record of one execution of a stage (time, memory, device), kept outside DVC's outs for MLflow."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from config.redaction import redacted
from jobs.cluster import torchrun
from jobs.notes import read_note, write_note
from jobs.state import STATE_FOLDER, own_state
from jobs.supervision import SLOT
from shards.files import md5_of, write_text, written

# The MD5 of each file that a stage wrote last, under its path.
NOTES = Path(STATE_FOLDER) / "written"
# The facts of this execution so far.
_facts: dict[str, Any] = {}
# Called with the status at the end of the execution, before its record is written.
at_end: list[Callable[[str], None]] = []


def note_written() -> None:
    """Keep the digests of the outs that are single files, for readers of a stage that ran without DVC."""
    for path in sorted(written):
        if not path.is_absolute() and path.parts[0] != STATE_FOLDER and path.is_file():
            write_text(NOTES / path, f"{md5_of(path)}\n")


def note(**facts: str | float) -> None:
    """Put facts into the record of this execution, without secrets; a number that is noted again is added to."""
    for name, value in facts.items():
        _facts[name] = redacted(value) if isinstance(value, str) else value + _facts.get(name, 0)


def noted() -> dict[str, Any]:
    """The facts so far, which a worker hands on to the stage."""
    return dict(_facts)


@contextmanager
def recorded(name: str) -> Iterator[None]:
    """Write the record of the execution when the block ends: FINISHED, KILLED by SIGTERM, or FAILED.

    Of the processes that torchrun starts the first alone writes, into a file beside the record: the stage that started
    torchrun puts it into its own.
    """
    started, clock, status = time.time(), time.monotonic(), "FAILED"
    if torchrun.rank() is None:
        facts_of_first(name).unlink(missing_ok=True)
    try:
        yield
        status = "FINISHED"
    except SystemExit as end:
        status = "KILLED" if end.code == torchrun.SAVED else "FAILED"
        raise
    finally:
        end_trainings(status)
        if not torchrun.rank():
            _write_record(name, started, time.monotonic() - clock, status)


def end_trainings(status: str) -> None:
    """Tell those that `at_end` names how the execution ended."""
    while at_end:
        at_end.pop()(status)


def _write_record(name: str, started: float, seconds: float, status: str) -> None:
    """Write the facts of this execution, outside DVC's outs, so that those depend on inputs alone.

    Memory is that of its largest process, CPU time that of all: a stage may leave the work to processes that it starts.
    SLURM's processes are not below this one: of them the first alone counts.
    """
    is_first = torchrun.rank() is not None
    try:
        first = {} if is_first else read_note(facts_of_first(name))
        peaks = (peak_mib(), _mib(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss), first.get("peak_mib", 0))
        record = {
            **first,
            "stage": name,
            "started": started,
            "seconds": seconds,
            "peak_mib": max(peaks),
            "cpu_seconds": max(sum(os.times()[:4]), first.get("cpu_seconds", 0)),
            "status": status,
            "slot": os.environ.get(SLOT, ""),
            "dvc_experiment": os.environ.get("DVC_EXP_NAME", ""),
            **_facts,
        }
        write_note(facts_of_first(name) if is_first else own_state() / "records" / f"{name}.json", record)
    except (OSError, ValueError) as error:
        print(f"warning: {name}: MLflow will not know of this execution: {error}", file=sys.stderr)


def facts_of_first(name: str) -> Path:
    """Where the first of the processes that torchrun starts leaves its facts for the stage."""
    return own_state() / "first" / f"{name}.json"


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB.

    Not getrusage's where there is better: that starts at what the parent had when it forked.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return _mib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _mib(ru_maxrss: int) -> float:
    return ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
