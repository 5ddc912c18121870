"""A split of the image shards as squares: decoded once into memory, or batch by batch."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from images.decoding import decode_mask_square, square_and_aspect
from images.stream import ReadAhead
from shards.image_shards import ImageShards

# Images that one task decodes: neighbours in a file, so that a row group is read once.
_CHUNK = 64


class DecodedImages:
    """Every image of a split as a square of `size` pixels, in the row order of `shards` (ascending id).

    pixels: (N, 3, size, size) uint8 RGB, the whole image, aspect ratio not kept. ids: (N,) uint64. labels: (N,)
    int64. aspect: (N,) float32, width / height of the original.
    """

    def __init__(self, shards: ImageShards, size: int, *, workers: int, ram_gib: float) -> None:
        needed = len(shards) * 3 * size * size / 2**30
        if needed > ram_gib:
            raise ValueError(
                f"{len(shards)} images of {size} x {size} pixels need {needed:.2f} GiB decoded, ram_gib in "
                f"runtime.yaml allows {ram_gib}; raise it or choose a smaller size"
            )
        self.ids, self.labels = shards.ids, shards.labels
        self.pixels = np.empty((len(shards), 3, size, size), dtype=np.uint8)
        self.aspect = np.empty(len(shards), dtype=np.float32)

        def fill(rows: np.ndarray) -> None:
            for row in rows:
                square, self.aspect[row] = square_and_aspect(shards.bytes(row), size)
                self.pixels[row] = square.transpose(2, 0, 1)

        with ThreadPoolExecutor(max(1, workers)) as pool:
            for _ in pool.map(fill, _chunks(shards.storage)):
                pass

    def __len__(self) -> int:
        return len(self.ids)


class WholeImages:
    """Images of a split as squares of `size` pixels, decoded when a pass comes to them: a few batches are in memory.

    most: leaves all but the first so many rows out; ids are hashes, so those are as good as drawn. labels: (N,) int64 of the
    rows that are left.
    """

    def __init__(self, shards: ImageShards, size: int, *, workers: int, most: int | None = None) -> None:
        self.shards, self.size, self.workers = shards, size, workers
        count = len(shards) if most is None else min(most, len(shards))
        self.labels = shards.labels[:count]
        self._rows = shards.storage[shards.storage < count]

    def __len__(self) -> int:
        return len(self.labels)

    def gather(
        self,
        function: Callable[[torch.Tensor], torch.Tensor],
        batch_size: int,
        advance: Callable[[int], object] = lambda images: None,
    ) -> torch.Tensor:
        """What `function` makes of batches (B, 3, size, size) uint8, (B, ...), put together by row: (N, ...) on the CPU.

        Each byte of the shards is read once. `advance` is told of images that are done.
        """
        whole: torch.Tensor | None = None
        for rows, pixels in self.batches(batch_size):
            found = function(pixels).cpu()
            if whole is None:
                whole = torch.empty(len(self), *found.shape[1:], dtype=found.dtype)
            whole[torch.from_numpy(rows)] = found
            advance(len(rows))
        assert whole is not None
        return whole

    def batches(
        self, batch_size: int, part: Callable[[int], slice] = lambda count: slice(count)
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """(rows (B,), images (B, 3, size, size) uint8) of every image once, in the order of the files.

        part: which of so many batches, by default all. Raises ValueError where there is no image.
        """
        if not len(self):
            raise ValueError(f"{self.shards.folder}: split {self.shards.split} has no image")
        chunks = [self._rows[start : start + batch_size] for start in range(0, len(self), batch_size)]
        chunks = chunks[part(len(chunks))]
        decoded = ReadAhead(
            lambda number: self._decode(chunks[number]), steps=len(chunks), workers=self.workers, prefetch=self.workers
        )
        for number, rows in enumerate(chunks):
            yield rows, torch.from_numpy(decoded(number))

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        squares = [square_and_aspect(self.shards.bytes(int(row)), self.size)[0] for row in rows]
        return np.stack(squares).transpose(0, 3, 1, 2).copy()


def decoded_masks(shards: ImageShards, rows: np.ndarray, size: int) -> np.ndarray:
    """Part labels (len(rows), size, size) uint8 of the masks of `rows`, upright, nearest neighbour.

    A mask turns with the EXIF orientation of its image. Raises ValueError for a row without a mask.
    """
    masks = np.empty((len(rows), size, size), dtype=np.uint8)
    for place, row in enumerate(rows):
        mask = shards.mask_bytes(row)
        if mask is None:
            raise ValueError(f"{shards.path(row)} has no mask; leave it out, or add one")
        masks[place] = decode_mask_square(mask, size, image=shards.bytes(row))
    return masks


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))
