"""What a worker does: make one shard after the other, as the stage describes them."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from jobs.record import noted

# Writes one shard to its `target`, whole or not at all, and yields numbers of images as they are done.
Make = Callable[..., Iterator[int]]
# How often lost workers are replaced before they are taken to fail for good.
TRIES = 3


class Task(NamedTuple):
    """A shard to make: its name for messages, the key it is kept under, its images, and arguments besides `target`."""

    name: str
    key: str
    images: int
    arguments: Mapping[str, Any]


class Work(NamedTuple):
    """What workers run: `start(**options)` loads what all shards need, and returns what makes one.

    `start` is a function of a module that a worker can import; options and arguments are plain data.
    """

    start: Callable[..., Make]
    options: Mapping[str, Any]


class Worker:
    """Makes one shard after the other in the folder of the stage; loads the models when the first one is asked for."""

    def __init__(self, work: Work, folder: str) -> None:
        os.chdir(folder)
        self._work = work
        self._make: Make | None = None

    def make(self, arguments: Mapping[str, Any], advance: Callable[[int], None]) -> dict[str, Any]:
        """Make a shard and return facts for the stage's record, which the first one has; ValueError for bad input."""
        facts: dict[str, Any] = {}
        try:
            if self._make is None:
                self._make = self._work.start(**self._work.options)
                facts = noted()
            for images in self._make(**arguments):
                advance(images)
        except (ValueError, OSError) as error:
            # Some subclasses do not survive the way to another process.
            raise ValueError(str(error)) from error
        return facts
