"""Shards that are made side by side: in this process, in several of this machine, or in those of a Ray cluster.

The list of shards is fixed beforehand, and each depends on its task alone: so its bytes are the same whoever makes it, after
whatever loss. Workers write shards to their place and send back numbers. One that dies is replaced and its shard made again;
what a killed run has finished, the next one finds.
"""

import importlib
import os
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from config.params import Runtime
from jobs.kept_shards import KeptShards
from jobs.progress import Meter
from jobs.record import note, noted

# Writes one shard to its `target`, whole or not at all, and yields numbers of images as they are done.
Make = Callable[..., Iterator[int]]
# What a worker says: a kind, and what goes with it.
Message = tuple[str, Any]
READY, IMAGES, DONE, MISTAKE, BUG, LOST = "ready", "images", "done", "mistake", "bug", "lost"
# How many workers a shard may cost, or the loading of what they need, before it is taken to be the cause.
TRIES = 3


class Task(NamedTuple):
    """A shard to make: its name for messages, the key it is kept under, its images, and arguments besides `target`."""

    name: str
    key: str
    images: int
    arguments: Mapping[str, Any]


class Work(NamedTuple):
    """What workers run: `start(**options)` loads what all shards need, and returns what makes one.

    `start` is a function of a module, which a worker imports; options and arguments are plain data.
    """

    start: Callable[..., Make]
    options: Mapping[str, Any]

    def described(self) -> tuple[str, str, dict[str, Any]]:
        """What makes a `Worker` of it elsewhere: the folder of this process, `start` as module:name, the options."""
        module, name = self.start.__module__, self.start.__qualname__
        assert getattr(sys.modules[module], name) is self.start, f"{module} has no {name} that could be imported"
        return os.getcwd(), f"{module}:{name}", dict(self.options)


def make_missing(
    work: Work, tasks: Sequence[Task], kept: KeptShards, runtime: Runtime, *, threads: int, device: str
) -> None:
    """Make those shards of `tasks` that no earlier run has kept, and say how far it is.

    threads: cores that a worker occupies on a CPU. device: `cpu` or `cuda`. Raises ValueError for what a worker cannot do,
    in the words of that worker, and for a shard that has cost `TRIES` workers.
    """
    missing = [task for task in tasks if not kept.has(task.key)]
    total, left = (sum(task.images for task in some) for some in (tasks, missing))
    print(f"{kept.job}: {len(tasks) - len(missing)} of {len(tasks)} shards are reused", flush=True)
    if not missing:
        return
    meter = Meter(total, label=kept.job, done=total - left, seconds=runtime.log_seconds)
    placed = [task._replace(arguments={**task.arguments, "target": kept.place(task.key)}) for task in missing]
    number = min(runtime.shard_workers, len(placed))
    if runtime.engine == "local" and number == 1:
        make = work.start(**work.options)
        for task in placed:
            for images in make(**task.arguments):
                meter.advance(images)
    else:
        crew = _crew(work, runtime, number=number, threads=threads, device=device)
        Dispatch(crew, placed, number=number, advance=meter.advance, label=kept.job).run()
    meter.close()


def _crew(work: Work, runtime: Runtime, *, number: int, threads: int, device: str) -> "Crew":
    if runtime.engine == "ray":
        from jobs.cluster.ray_workers import RayWorkers

        return RayWorkers(work, address=runtime.ray_address, number=number, threads=threads, device=device)
    from jobs.cluster.local_workers import LocalWorkers

    return LocalWorkers(work, number=number, device=device)


class Worker:
    """The far end: what one process does. It says READY, then of each shard IMAGES... and DONE; or MISTAKE or BUG at last."""

    def __init__(self, folder: str, start: str, options: Mapping[str, Any]) -> None:
        self.folder, self.start, self.options = folder, start, options

    def load(self) -> Iterator[Message]:
        """Go to the folder of the stage and load what all shards need."""
        yield from _told(self._load())

    def make(self, arguments: Mapping[str, Any]) -> Iterator[Message]:
        """Make one shard."""
        yield from _told(self._make(arguments))

    def _load(self) -> Iterator[Message]:
        os.chdir(self.folder)
        module, _, name = self.start.partition(":")
        self.make_shard: Make = getattr(importlib.import_module(module), name)(**self.options)
        yield READY, noted()

    def _make(self, arguments: Mapping[str, Any]) -> Iterator[Message]:
        for images in self.make_shard(**arguments):
            yield IMAGES, images
        yield DONE, None


def _told(messages: Iterator[Message]) -> Iterator[Message]:
    """What is raised, as text: an exception itself may not survive the way to another process."""
    try:
        yield from messages
    except (ValueError, OSError) as error:
        yield MISTAKE, " ".join(str(error).split())
    except Exception:
        yield BUG, traceback.format_exc()


class Crew(AbstractContextManager, Protocol):
    """Processes that an engine starts: entered before any is hired, all of them ended when it is left."""

    def hire(self) -> Any:
        """Start a worker; it will be READY, or LOST."""

    def give(self, worker: Any, arguments: Mapping[str, Any]) -> None:
        """Let a worker that has nothing to do make a shard."""

    def messages(self) -> Iterator[tuple[Any, Message]]:
        """Wait until a worker says something, and yield what was said. LOST is the last that is heard of one."""


class Dispatch:
    """Who makes which shard: `number` workers of `crew` at a time. `advance` is told of images, of each once.

    A worker gets a shard when it is ready, so one that finds no place any more, its node being lost, holds up nothing.
    """

    def __init__(
        self, crew: Crew, tasks: Sequence[Task], *, number: int, advance: Callable[[int], None], label: str
    ) -> None:
        self.crew, self.number, self.advance, self.label = crew, number, advance, label
        self.waiting = deque(tasks)
        self.loading: set[Any] = set()
        self.idle: list[Any] = []
        self.at_work: dict[Any, Task] = {}
        self.lost: Counter[str] = Counter()
        # Images of a shard: done in this attempt, and those that `advance` knows of.
        self.done: Counter[str] = Counter()
        self.told: Counter[str] = Counter()

    def run(self) -> None:
        """Return when every shard is made; ValueError, or RuntimeError for a bug, at the first that cannot be."""
        with self.crew:
            while self.waiting or self.at_work:
                self._hand_out()
                for worker, (kind, value) in self.crew.messages():
                    self._hear(worker, kind, value)

    def _hand_out(self) -> None:
        while self.waiting and self.idle:
            worker, task = self.idle.pop(), self.waiting.popleft()
            self.at_work[worker] = task
            self.done[task.key] = 0
            self.crew.give(worker, task.arguments)
        for _ in range(min(self.number - len(self.at_work), len(self.waiting)) - len(self.loading)):
            self.loading.add(self.crew.hire())

    def _hear(self, worker: Any, kind: str, value: Any) -> None:
        if kind == READY:
            self.loading.remove(worker)
            self.idle.append(worker)
            del self.lost[""]
            note(**value)
        elif kind == IMAGES:
            self._count(self.at_work[worker].key, value)
        elif kind == DONE:
            del self.at_work[worker]
            self.idle.append(worker)
        elif kind == LOST:
            self._replace(worker, value)
        elif kind == MISTAKE:
            raise ValueError(value)
        else:
            raise RuntimeError(f"in a worker of {self.label}:\n{value}")

    def _count(self, key: str, images: int) -> None:
        self.done[key] += images
        if self.done[key] > self.told[key]:
            self.advance(self.done[key] - self.told[key])
            self.told[key] = self.done[key]

    def _replace(self, worker: Any, reason: str) -> None:
        """Try again what a lost worker was at, when what waits has begun: so a shard that kills workers is met last."""
        if worker in self.idle:
            self.idle.remove(worker)
            return
        key, doing = "", "while it loaded the models"
        if worker in self.loading:
            self.loading.remove(worker)
        else:
            task = self.at_work.pop(worker)
            self.waiting.append(task)
            key, doing = task.key, f"at {task.name}"
        self.lost[key] += 1
        if self.lost[key] == TRIES:
            raise ValueError(
                f"a worker was lost {doing}, {TRIES} times: {reason}; look there for the cause, memory above all, and "
                "run again: what is finished is kept"
            )
        print(f"{self.label}: a worker was lost {doing}: {reason}; another one tries again", flush=True)
