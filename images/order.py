"""The order in which training sees the images: shuffled by groups and within a window, a function of seed and position alone."""

import hashlib
from functools import lru_cache

import numpy as np


class ShuffledOrder:
    """Rows of every position of training, epoch after epoch, each image once an epoch.

    An epoch permutes the groups (rows that lie together in a file), cuts their sequence into windows of at least `window`
    images, and permutes the images of each window. So a reader needs the encoded images of two windows at a time, and a set
    that is no larger than the window is permuted whole, whatever its files look like. The batches of an epoch follow those
    of the one before without a gap. Any position is found from its number alone, so the number of the step is all that a
    checkpoint needs to know of the data. Memory: the groups and four windows.

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
        found = []
        while count > 0:
            epoch, place = divmod(first, len(self.storage))
            _, starts = self._epoch(epoch)
            window = int(np.searchsorted(starts, place, side="right")) - 1
            rows = self._rows(epoch, window)[place - starts[window] :][:count]
            found.append(rows)
            first, count = first + len(rows), count - len(rows)
        return np.concatenate(found)

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
