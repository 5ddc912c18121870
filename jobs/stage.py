"""Run a stage as a process: one line for a user's mistake, 143 at SIGTERM, 130 at Ctrl-C, and a record for tracking."""

import atexit
import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from config.names import stage_name
from config.redaction import one_line, redacted
from jobs.cluster import torchrun
from jobs.record import note_written, recorded
from jobs.state import own_state
from jobs.supervision import SUPERVISOR, follow
from shards.files import is_lack_of_memory


class Terminated(SystemExit):
    """SIGTERM arrived: the stage has saved what it can and ends with 128 + 15."""

    def __init__(self) -> None:
        super().__init__(torchrun.SAVED)


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


@contextlib.contextmanager
def interruptible(name: str) -> Iterator[None]:
    """Have Ctrl-C do in the block what SIGTERM does, whoever handles that at the moment, and end the process with 130.

    A second Ctrl-C is ignored: nothing cuts the saving short. What a shell runs in its background ignores the first, too.
    """
    arrived = False

    def pass_on(*_: object) -> None:
        nonlocal arrived
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        arrived = True
        signal.raise_signal(signal.SIGTERM)

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, pass_on)
    try:
        yield
    except Terminated:
        # torchrun knows what 143 of one of its processes means.
        if not arrived or torchrun.rank() is not None:
            raise
        print(f"{name}: interrupted; run it again to go on from what is saved", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        # Python's end is nothing to interrupt in order.
        if signal.getsignal(signal.SIGINT) == pass_on:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(main: Callable[[], Any]) -> None:
    """Run a stage's `main` and end the process: 0 done, 1 a mistake that the user can mend (one line), 143 terminated.

    130 interrupted: Ctrl-C does what SIGTERM does.
    A ValueError or OSError is such a mistake, its message is the line, and so is a lack of memory; the traceback goes to
    the log folder. Every other exception is a bug of ours and keeps its traceback.
    """
    name = stage_name()
    # What the imports made is there to stay, and searching it for garbage takes a second of every stage, most of it at the end.
    gc.freeze()
    atexit.register(gc.freeze)
    signal.signal(signal.SIGTERM, _terminate)
    follow(os.environ.get(SUPERVISOR))
    with interruptible(name), recorded(name):
        try:
            main()
            note_written()
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            line = _line_of(error)
            if not line:
                raise
            # This process ends anyway; torchrun terminates the others when one of them has ended.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            rank = torchrun.rank()
            signed = f"{name} (process {rank})" if rank else name
            _keep_traceback(signed)
            is_mistake = not isinstance(error, ConnectionError)
            raise SystemExit(torchrun.report(f"{signed}: {line}", is_mistake=is_mistake)) from None


def _line_of(error: Exception) -> str:
    """What a user can mend, in a line; empty for a bug of ours."""
    line = one_line(error)
    if is_lack_of_memory(error):
        return f"out of memory ({line[:200]}); give it more, or lower batch_size, ram_gib or workers"
    return line if isinstance(error, ValueError | OSError) else ""


def _keep_traceback(name: str) -> None:
    with contextlib.suppress(OSError):  # The disk may be full.
        path = own_state() / "logs" / f"{name}.traceback"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(redacted(traceback.format_exc()), encoding="utf-8")


def _terminate(number: int, frame: object) -> None:
    """End through the `finally` of everything that runs; training has a handler of its own, which saves first."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
