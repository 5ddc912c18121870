"""A sign of life on the terminal while a command works and does not know how much is left."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def patience(what: str, *, seconds: float = 5.0) -> Iterator[None]:
    """Print a line to stderr every `seconds` as long as the body runs."""
    done, started = threading.Event(), time.monotonic()

    def report() -> None:
        while not done.wait(seconds):
            print(f"{what}: {time.monotonic() - started:.0f} s so far", file=sys.stderr, flush=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
