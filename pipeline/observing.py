"""What watches a walk. It is told what happens and decides nothing: one that fails is dropped, and the walk goes on."""

import sys
import threading
from collections.abc import Callable, Sequence

from config.redaction import one_line
from pipeline.execution import Outcome


class Observer:
    """Is told what happens to each stage, by the thread of that stage; what it does not care about it leaves out."""

    def waiting(self, stage: str) -> None:
        """The stage has its inputs, and waits for its slots."""

    def started(self, stage: str, device: str) -> None:
        """The stage has its slots, and its process starts."""

    def line(self, stage: str, text: str) -> None:
        """The stage has printed a line, or waits for a reason that the line says."""

    def ended(self, outcome: Outcome) -> None:
        """The stage has ended, or is not started any more."""


class Printed(Observer):
    """Each line on the terminal, behind the name of its stage."""

    def line(self, stage: str, text: str) -> None:
        """Print it."""
        print(f"[{stage}] {text}", flush=True)


class Observers:
    """Tells all observers what happens."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = list(observers)
        self._lock = threading.Lock()

    def tell(self, call: Callable[[Observer], None]) -> None:
        """Make a call to each observer. The first error of one is a printed warning, and its last call."""
        for observer in tuple(self._observers):
            try:
                call(observer)
            except Exception as error:
                with self._lock:
                    if observer not in self._observers:
                        continue
                    self._observers.remove(observer)
                name, reason = type(observer).__name__, one_line(error)
                print(
                    f"warning: {name} shows no more of this run: {reason}; the run goes on", file=sys.stderr, flush=True
                )
