"""Training images in their order: decoded ahead of the training, and kept where the memory allows."""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from images.decoding import Decoded, decode_at_least
from shards.image_shards import ImageShards

Item = TypeVar("Item")
Made = TypeVar("Made")
# Images that one thread decodes when all are: neighbours in a file, so that a row group is read once.
_CHUNK = 64


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
    """The images of a split: whole, upright, decoded by `decode` to `size` pixels.

    ids (N,) uint64 and labels (N,) int64 by row. An image is decoded when a batch first needs it, and kept while there is
    room: a batch holds the same pixels whether they were kept or not. Memory: `ram_gib` of decoded images at most, and the
    encoded images of two windows of the order. Several threads may read at once.

    window: images that `order` shuffles among each other. workers, prefetch: threads, and batches, of `ahead`.
    """

    def __init__(
        self,
        shards: ImageShards,
        size: int,
        *,
        ram_gib: float,
        window: int = 1,
        workers: int = 0,
        prefetch: int = 0,
        decode: Callable[[bytes, int], Decoded] = decode_at_least,
    ) -> None:
        self.shards, self.size, self.window = shards, size, window
        self.ids = shards.ids
        self._workers, self._prefetch, self._decode = workers, prefetch, decode
        self._ram_gib, self._room = ram_gib, int(ram_gib * 2**30)
        self._kept: dict[int, Decoded] = {}
        self._guard = threading.Lock()

    @property
    def labels(self) -> np.ndarray:
        """Those of the shards, which read them at the first use: pretraining never does."""
        return self.shards.labels

    def __len__(self) -> int:
        return len(self.ids)

    def hold_all(self, advance: Callable[[int], object] = lambda images: None) -> None:
        """Decode all images now, in the order of the files, for a reader that jumps: it would read each file many times.

        advance: called with the number of images of each chunk that is decoded.
        Raises ValueError where squares of `size` pixels take more memory than `ram_gib`.
        """
        needed = len(self) * 3 * self.size * self.size / 2**30
        if needed > self._ram_gib:
            raise ValueError(
                f"{len(self)} images of {self.size} x {self.size} pixels need {needed:.2f} GiB decoded, ram_gib in "
                f"runtime.yaml allows {self._ram_gib}; raise it or choose a smaller size"
            )
        rows = self.shards.storage
        chunks = (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))
        for batch in map_ahead(self.batch, chunks, workers=self._workers, prefetch=2 * self._workers):
            advance(len(batch.rows))

    def order(self, *key: int | str) -> "ShuffledOrder":
        """The shuffled order named by `key`; the shards keep as much as a reader in that order comes back to."""
        order = ShuffledOrder(self.shards.storage, self.shards.group_sizes, window=self.window, key=key)
        self.shards.held_groups = max(self.shards.held_groups, order.groups_held)
        return order

    def ahead(self, make: Callable[[int], Made], *, steps: int) -> "ReadAhead[Made]":
        """`make(step)`, which reads batches of these images, made ahead of the training."""
        return ReadAhead(make, steps=steps, workers=self._workers, prefetch=self._prefetch)

    def batch(self, rows: np.ndarray) -> Batch:
        """The images of `rows` (B,)."""
        images = [self._get(int(row)) for row in rows]
        return Batch(
            rows,
            np.array([image.size for image in images]).reshape(-1, 2),
            np.array([image.aspect for image in images], dtype=np.float32),
            [image.pixels for image in images],
        )

    def _get(self, row: int) -> Decoded:
        kept = self._kept.get(row)
        if kept is not None:
            return kept
        image = self._decode(self.shards.bytes(row), self.size)
        with self._guard:
            if row not in self._kept and image.pixels.nbytes <= self._room:
                self._kept[row] = image
                self._room -= image.pixels.nbytes
        return image


class ShuffledOrder:
    """Rows of every position of training, epoch after epoch, each image once an epoch.

    An epoch permutes the groups (rows that lie together in a file), cuts their sequence into windows of at least `window`
    images, and permutes the images of each window. So a reader needs the encoded images of two windows at a time, and a set
    that is no larger than the window is permuted whole, whatever its files look like. The batches of an epoch follow those
    of the one before without a gap. Rows follow from the position alone, so a checkpoint needs to hold nothing of the data but
    the number of the step. Memory: the groups and four windows.

    storage: (N,) row numbers in the order of the files. group_sizes: rows of each group, which sum to N.
    """

    def __init__(
        self, storage: np.ndarray, group_sizes: np.ndarray, *, window: int, key: tuple[int | str, ...]
    ) -> None:
        assert group_sizes.sum() == len(storage), (group_sizes.sum(), len(storage))
        if len(storage) == 0:
            raise ValueError("there are no images to train on; put some into the train split")
        self.storage, self.window, self.key = storage, window, key
        self._ends = np.cumsum(group_sizes)
        self._sizes = group_sizes
        self._epoch = lru_cache(maxsize=2)(self._cut)
        self._rows = lru_cache(maxsize=4)(self._shuffled)

    def rows(self, first: int, count: int) -> np.ndarray:
        """Rows (count,) int64 of the positions first .. first + count - 1, counted over all epochs."""
        parts = []
        while count > 0:
            epoch, place = divmod(first, len(self.storage))
            _, starts = self._epoch(epoch)
            window = int(np.searchsorted(starts, place, side="right")) - 1
            rows = self._rows(epoch, window)[place - starts[window] :][:count]
            parts.append(rows)
            first, count = first + len(rows), count - len(rows)
        return np.concatenate(parts)

    @property
    def groups_held(self) -> int:
        """Most groups that two neighbouring windows can have: what a reader keeps to read none twice an epoch."""
        most = int(np.searchsorted(np.cumsum(np.sort(self._sizes)), self.window)) + 1
        return min(len(self._sizes), 2 * most)

    def _cut(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The windows of an epoch, as groups, and the position at which each begins."""
        groups = self._generator("epoch", epoch).permutation(len(self._sizes))
        ends = np.cumsum(self._sizes[groups])
        cuts, done = [], 0
        while done < ends[-1]:
            cut = int(np.searchsorted(ends, min(done + self.window, ends[-1]))) + 1
            cuts.append(cut)
            done = int(ends[cut - 1])
        windows = np.split(groups, cuts[:-1])
        return windows, np.array([0, *(ends[cut - 1] for cut in cuts[:-1])])

    def _shuffled(self, epoch: int, window: int) -> np.ndarray:
        groups = self._epoch(epoch)[0][window]
        spans = [self.storage[self._ends[group] - self._sizes[group] : self._ends[group]] for group in groups]
        # Sorted first, so that a window that holds everything does not depend on the files.
        rows = np.sort(np.concatenate(spans)).astype(np.int64)
        return self._generator("epoch", epoch, "window", window).permutation(rows)

    def _generator(self, *more: int | str) -> np.random.Generator:
        text = "/".join(map(str, (*self.key, *more)))
        return np.random.Generator(
            np.random.Philox(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()))
        )


class ReadAhead(Generic[Made]):
    """`make(step)` as a function of the step, made by `workers` threads up to `prefetch` steps before it is called.

    `make` must depend on nothing but the step, and steps come in rising order. After a jump it starts again from there. An
    error in `make` is raised by the step that it belongs to.
    """

    def __init__(self, make: Callable[[int], Made], *, steps: int, workers: int, prefetch: int) -> None:
        self._make, self._steps, self._workers, self._prefetch = make, steps, workers, prefetch
        self._next: int | None = None
        self._ahead: Iterator[Made] = iter(())

    def __call__(self, step: int) -> Made:
        if step != self._next:
            steps = range(step, self._steps)
            self._ahead = map_ahead(self._make, steps, workers=self._workers, prefetch=self._prefetch)
        made = next(self._ahead)
        self._next = step + 1
        return made


def map_ahead(make: Callable[[Item], Made], items: Iterable[Item], *, workers: int, prefetch: int) -> Iterator[Made]:
    """`make(item)` of every item in order; `workers` threads are up to `prefetch` items ahead of the reader.

    Items are taken in the reader's thread, `prefetch` + 1 of them at most. Without workers that thread calls `make`.
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
        # Without waiting: the garbage collector may end this, in any thread and under any lock.
        pool.shutdown(wait=False, cancel_futures=True)
