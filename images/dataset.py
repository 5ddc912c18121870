"""A split of the image shards, decoded once into memory."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from images.decoding import decode_mask_square, square_and_aspect
from pipeline.image_shards import ImageShards

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
