"""What every stage process shares: one line for a user's mistake, its record for tracking, and its progress lines."""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from config.names import stage_name
from config.redaction import one_line, redacted
from jobs.record import facts_of_first, note_written, torchrun_rank, write_record
from jobs.state import own_state
from jobs.supervision import SUPERVISOR, follow
from shards.files import is_lack_of_memory

# Exit code of a process that torchrun started and that ended by what a user must mend: to begin again cannot help.
MISTAKE = 65
# Exit code of a process that saved what it could at SIGTERM, and of a torchrun whose processes did.
SAVED = 128 + signal.SIGTERM


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
            facts_of_first(name).unlink(missing_ok=True)
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
            write_record(name, started, time.monotonic() - clock, status)


def _line_of(error: Exception) -> str:
    """What a user can mend, in a line; empty for what is our own bug."""
    told = one_line(error)
    if is_lack_of_memory(error):
        return f"out of memory ({told[:200] or type(error).__name__}); give it more, or lower batch_size, ram_gib or workers"
    return told if isinstance(error, ValueError | OSError) else ""


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
