"""Progress of a stage: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from jobs.record import note

Item = TypeVar("Item")
# Work in another unit is not in the record of the execution.
IMAGES = "images"


def progress(
    items: Iterable[Item], *, total: int, label: str, unit: str = IMAGES, seconds: float = 10.0
) -> Iterator[Item]:
    """Pass `items` on, one for each of `total` units, and show how far it is."""
    with Meter(total, label=label, unit=unit, seconds=seconds) as meter:
        for item in items:
            yield item
            meter.advance(1)


class Meter:
    """Units done, units a second and time left: a bar on a terminal, a plain line every `seconds` elsewhere.

    Used as a context manager, or closed. Only work prints: a timer of its own would hide a stage that hangs from the watchdog.
    """

    def __init__(self, total: int, *, label: str, unit: str = IMAGES, done: int = 0, seconds: float = 10.0) -> None:
        self.total, self.label, self.unit, self.seconds = total, label, unit, seconds
        self.first = self.done = done
        self.started = self.printed = time.monotonic()
        self.bar = _bar(label, total, done) if sys.stdout.isatty() else None

    def advance(self, count: int, note: str = "") -> None:
        """Count `count` more; 0 in the midst of a unit that takes long."""
        self.done += count
        now = time.monotonic()
        rate = (self.done - self.first) / max(now - self.started, 1e-9)
        text = f"{_shown(rate)} {self.unit}/s{note and ', ' + note}"
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done, note=text)
        elif now - self.printed >= self.seconds:
            self.printed = now
            left = f"{(self.total - self.done) / rate:.0f} s left" if rate else f"{now - self.started:.0f} s so far"
            print(f"{self.label}: {self.done}/{self.total} {self.unit}, {left}, {text}", flush=True)

    def close(self) -> None:
        """Print the closing line."""
        if self.bar is not None:
            self.bar.stop()
        done, spent = self.done - self.first, max(time.monotonic() - self.started, 1e-9)
        if self.unit == IMAGES:
            note(images=done, image_seconds=spent)
        print(f"{self.label}: {self.done} {self.unit}, {_shown(done / spent)} {self.unit}/s", flush=True)

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self.close()
        elif self.bar is not None:
            self.bar.stop()


def _shown(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def _bar(label: str, total: int, done: int) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.fields[note]}")
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn())
    bar.add_task(label, total=total, completed=done, note="")
    bar.start()
    return bar
