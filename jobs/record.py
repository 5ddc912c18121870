"""What only this execution of a stage knows (time, memory, device): its record, kept outside DVC's outs for MLflow."""

import os
import resource
import sys
from pathlib import Path
from typing import Any

from config.redaction import redacted
from jobs.notes import read_note, write_note
from jobs.state import STATE_FOLDER, own_state
from jobs.supervision import SLOT
from shards.files import md5_of, write_text, written

# The MD5 of each file that a stage wrote last, under its path.
NOTES = Path(STATE_FOLDER) / "written"


# What this execution alone knows, for its record.
_facts: dict[str, Any] = {}


def note_written() -> None:
    """Keep the digests of the outs that are single files: what reads them by hand has no other."""
    for path in sorted(written):
        if not path.is_absolute() and path.parts[0] != STATE_FOLDER and path.is_file():
            write_text(NOTES / path, f"{md5_of(path)}\n")


def note(**facts: str | float) -> None:
    """Put facts into the record of this execution, without secrets; a number that is noted again is added to."""
    for name, value in facts.items():
        _facts[name] = redacted(value) if isinstance(value, str) else value + _facts.get(name, 0)


def noted() -> dict[str, Any]:
    """The facts so far: what a process that works for another one hands on to it."""
    return dict(_facts)


def torchrun_rank() -> int | None:
    """Rank of this process among those that torchrun started, or None where it did not start this one.

    `RANK` alone says nothing: operators of clusters set it to the number of the machine.
    """
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def write_record(name: str, started: float, seconds: float, status: str) -> None:
    """What only this execution knows (time, memory): kept outside DVC's outs, so that those depend on inputs alone.

    Memory is that of its largest process, CPU time that of all: a stage may leave the work to processes that it starts.
    The first of those that torchrun starts knows the device and the like, and tells them to the stage by a file beside,
    for what it had written as the record would be taken for the whole. SLURM's processes are not below this one: of them
    the first alone is counted.
    """
    is_first = torchrun_rank() is not None
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
    """Where the first of the processes that torchrun starts leaves what it knows of the execution."""
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
