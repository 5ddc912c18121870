"""Training images as they are asked for: decoded ahead of time, kept where the memory allows."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from images.decoding import Decoded, decode_at_least
from images.order import ShuffledOrder
from shards.image_shards import ImageShards

Item = TypeVar("Item")
Made = TypeVar("Made")


class Batch(NamedTuple):
    """B decoded images.

    rows: (B,) of the split. sizes: (B, 2) height and width in pixels, as decoded. aspect: (B,) float32 width / height of
    the originals. pixels: each (h, w, 3) uint8 RGB.
    """

    rows: np.ndarray
    sizes: np.ndarray
    aspect: np.ndarray
    pixels: list[np.ndarray]


class TrainingImages:
    """The images of a split: whole, upright, at least `size` pixels on either side where they have them.

    ids (N,) uint64 and labels (N,) int64 by row. An image is decoded when it is first asked for, and kept while there is
    room: what a batch holds is the same whether it was kept or not. Memory: `ram_gib` of decoded images at most, and the
    encoded images of two windows of the order. Threads may ask at once.
    """

    def __init__(self, shards: ImageShards, size: int, *, window: int, ram_gib: float) -> None:
        self.shards, self.size, self.window = shards, size, window
        self.ids = shards.ids
        self._room = int(ram_gib * 2**30)
        self._kept: dict[int, Decoded] = {}
        self._guard = threading.Lock()

    @property
    def labels(self) -> np.ndarray:
        """Those of the shards, which read them when they are first asked for: pretraining never does."""
        return self.shards.labels

    def __len__(self) -> int:
        return len(self.ids)

    def order(self, *key: int | str) -> ShuffledOrder:
        """The shuffled order named by `key`; the shards keep as much as a reader in that order comes back to."""
        order = ShuffledOrder(self.shards.storage, self.shards.group_sizes, window=self.window, key=key)
        self.shards.held_groups = max(self.shards.held_groups, order.groups_held)
        return order

    def batch(self, rows: np.ndarray) -> Batch:
        """The images of `rows` (B,)."""
        found = [self._get(int(row)) for row in rows]
        return Batch(
            rows,
            np.array([image.size for image in found]).reshape(-1, 2),
            np.array([image.aspect for image in found], dtype=np.float32),
            [image.pixels for image in found],
        )

    def _get(self, row: int) -> Decoded:
        kept = self._kept.get(row)
        if kept is not None:
            return kept
        image = decode_at_least(self.shards.bytes(row), self.size)
        with self._guard:
            if row not in self._kept and image.pixels.nbytes <= self._room:
                self._kept[row] = image
                self._room -= image.pixels.nbytes
        return image


class ReadAhead(Generic[Made]):
    """What `make(step)` returns, made by `workers` threads up to `prefetch` steps before it is asked for.

    `make` must depend on nothing but the step, and steps are asked for in rising order; without workers it is called when
    asked. An error in it is raised by the step that it belongs to.
    """

    def __init__(self, make: Callable[[int], Made], *, steps: int, workers: int, prefetch: int) -> None:
        self.make, self.steps, self.prefetch = make, steps, prefetch
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._waiting: dict[int, Future[Made]] = {}

    def __call__(self, step: int) -> Made:
        if self._pool is None:
            return self.make(step)
        for number in range(step, min(self.steps, step + self.prefetch + 1)):
            if number not in self._waiting:
                self._waiting[number] = self._pool.submit(self.make, number)
        return self._waiting.pop(step).result()


def map_ahead(make: Callable[[Item], Made], items: Iterable[Item], *, workers: int, prefetch: int) -> Iterator[Made]:
    """`make(item)` of every item in order, made by `workers` threads up to `prefetch` items before it is asked for.

    Items are taken in this thread, which holds `prefetch` + 1 of them at most; without workers `make` is called when asked.
    """
    if not workers:
        yield from map(make, items)
        return
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > prefetch:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
