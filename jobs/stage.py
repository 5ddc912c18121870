"""What every stage process shares: one line for a user's mistake, its record for tracking, and its progress lines."""

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from config.names import stage_name
from config.redaction import one_line, redacted
from jobs.notes import read_note, write_note
from jobs.state import STATE_FOLDER, own_state
from jobs.supervision import SLOT, SUPERVISOR, follow
from shards.files import is_lack_of_memory, md5_of, write_json, write_text, written

Item = TypeVar("Item")
# The MD5 of each file that a stage wrote last, under its path.
NOTES = Path(STATE_FOLDER) / "written"
# Exit code of a process that torchrun started and that ended by what a user must mend: to begin again cannot help.
MISTAKE = 65
# Exit code of a process that saved what it could at SIGTERM, and of a torchrun whose processes did.
SAVED = 128 + signal.SIGTERM
# What this execution alone knows, for its record.
_facts: dict[str, Any] = {}


class Terminated(SystemExit):
    """SIGTERM arrived: the stage has saved what it can and ends with 128 + 15."""

    def __init__(self) -> None:
        super().__init__(SAVED)


class Termination:
    """SIGTERM as a flag while the block runs, so that nothing in it is cut short."""

    def __enter__(self) -> "Termination":
        self.requested = False
        self._previous = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _request(self, *_: object) -> None:
        self.requested = True


def run(main: Callable[[], Any]) -> None:
    """Run a stage's `main` and end the process: 0 done, 1 a mistake to mend (one line), 143 terminated.

    A ValueError or OSError is something that the user can mend: its message is the line, and a lack of memory is one as
    well. The traceback goes to the log folder. Every other exception is our own bug and keeps its traceback. Of the
    processes that torchrun starts the first one tells what goes into the record, and the others sign what they say with
    their rank: they leave the line to torchrun, which prints one of them, and end with `MISTAKE`, or with 1 where they lost
    the others.
    """
    name = stage_name()
    signal.signal(signal.SIGTERM, _terminate)
    if torchrun_rank() is None:
        follow(os.environ.get(SUPERVISOR))
    started, clock = time.time(), time.monotonic()
    status = "FAILED"
    try:
        if torchrun_rank() is None:
            _told_by_first(name).unlink(missing_ok=True)
        main()
        note_written()
        status = "FINISHED"
    except Terminated:
        status = "KILLED"
        raise
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if not (told := _line_of(error)):
            raise
        # It ends anyway: torchrun terminates those who have not ended yet when one of them has.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        rank = torchrun_rank()
        signed = f"{name} (process {rank})" if rank else name
        with contextlib.suppress(OSError):  # The disk may be full.
            log = own_state() / "logs" / f"{signed}.traceback"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(redacted(traceback.format_exc()), encoding="utf-8")
        raise SystemExit(_tell(f"{signed}: {told}", error)) from None
    finally:
        if not torchrun_rank():
            _write_record(name, started, time.monotonic() - clock, status)


def _line_of(error: Exception) -> str:
    """What a user can mend, in a line; empty for what is our own bug."""
    told = one_line(error)
    if is_lack_of_memory(error):
        return f"out of memory ({told[:200] or type(error).__name__}); give it more, or lower batch_size, ram_gib or workers"
    return told if isinstance(error, ValueError | OSError) else ""


def note_written() -> None:
    """Keep the digests of the outs that are single files: what reads them by hand has no other."""
    for path in sorted(written):
        if not path.is_absolute() and path.parts[0] != STATE_FOLDER and path.is_file():
            write_text(NOTES / path, f"{md5_of(path)}\n")


def _tell(line: str, error: Exception) -> int:
    """Print the line of an error, or leave it to the torchrun that started this process; returns the exit code."""
    report = os.environ.get("TORCHELASTIC_ERROR_FILE", "") if torchrun_rank() is not None else ""
    if not report:
        print(f"error: {line}", file=sys.stderr)
        return 1
    Path(report).write_text(json.dumps({"message": line, "timestamp": int(time.time())}), encoding="utf-8")
    return 1 if isinstance(error, ConnectionError) else MISTAKE


def _terminate(number: int, frame: object) -> None:
    """End through the `finally` of everything that runs; training has a handler of its own, which saves first."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


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


def _write_record(name: str, started: float, seconds: float, status: str) -> None:
    """What only this execution knows (time, memory): kept outside DVC's outs, so that those depend on inputs alone.

    Memory is that of its largest process, CPU time that of all: a stage may leave the work to processes that it starts.
    The first of those that torchrun starts knows the device and the like, and tells them to the stage by a file beside,
    for what it had written as the record would be taken for the whole. SLURM's processes are not below this one: of them
    the first alone is counted.
    """
    is_first = torchrun_rank() is not None
    try:
        first = {} if is_first else read_note(_told_by_first(name))
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
        write_note(_told_by_first(name) if is_first else own_state() / "records" / f"{name}.json", record)
    except (OSError, ValueError) as error:
        print(f"warning: {name}: MLflow will not know of this execution: {error}", file=sys.stderr)


def _told_by_first(name: str) -> Path:
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


def progress(items: Iterable[Item], *, total: int, label: str, unit: int = 1, seconds: float = 10.0) -> Iterator[Item]:
    """Pass `items` on and show how far it is: a bar on a terminal, a plain line every `seconds` elsewhere.

    `unit` is the number of images an item stands for; `total` counts items.
    """
    meter = Meter(total * unit, label=label, seconds=seconds)
    for item in items:
        yield item
        meter.advance(unit)
    meter.close()


class Meter:
    """Images done, images a second and time left: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, *, label: str, done: int = 0, seconds: float = 10.0) -> None:
        self.total, self.label, self.seconds = total, label, seconds
        self.first = self.done = done
        self.started = self.printed = time.monotonic()
        self.bar = _bar(label, total, done) if sys.stdout.isatty() else None

    def advance(self, images: int, note: str = "") -> None:
        """Count `images` more."""
        self.done += images
        now = time.monotonic()
        rate = (self.done - self.first) / max(now - self.started, 1e-9)
        text = f"{rate:.0f} images/s{note and ', ' + note}"
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done, note=text)
        elif now - self.printed >= self.seconds:
            self.printed = now
            left = (self.total - self.done) / rate
            print(f"{self.label}: {self.done}/{self.total} images, {left:.0f} s left, {text}", flush=True)

    def close(self) -> None:
        """Print the closing line."""
        if self.bar is not None:
            self.bar.stop()
        spent = max(time.monotonic() - self.started, 1e-9)
        note(images=self.done - self.first, image_seconds=spent)
        print(f"{self.label}: {self.done} images, {(self.done - self.first) / spent:.0f} images/s", flush=True)


def _bar(label: str, total: int, done: int) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.fields[note]}")
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn())
    bar.add_task(label, total=total, completed=done, note="")
    bar.start()
    return bar


def write_metrics(path: str | Path, metrics: dict[str, float]) -> None:
    """Write a flat dictionary of numbers as JSON; anything but a finite number is our bug."""
    for name, value in metrics.items():
        assert isinstance(value, int | float) and value == value and abs(value) != float("inf"), (name, value)
    write_json(path, json.loads(json.dumps(metrics)))
