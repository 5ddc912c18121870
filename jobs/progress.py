"""Progress of a stage: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from jobs.record import note

Item = TypeVar("Item")


def progress(items: Iterable[Item], *, total: int, label: str) -> Iterator[Item]:
    """Pass `items` on, one for each of `total` images, and show how far it is."""
    meter = Meter(total, label=label)
    for item in items:
        yield item
        meter.advance(1)
    meter.close()


class Meter:
    """Images done, images a second and time left: a bar on a terminal, a plain line every `seconds` elsewhere."""

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
