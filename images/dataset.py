"""A split of the image shards as whole images, squares of one size, and their masks: what networks are judged on."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from images.decoding import decode_mask_square, decode_square
from images.stream import map_ahead
from shards.image_shards import ImageShards
from shards.mask_shards import MaskShards


class WholeImages:
    """Images of a split as squares of `size` pixels, aspect ratio not kept. A few batches at a time are in memory.

    most: use the first so many rows alone; ids are hashes, so these are as good as drawn. labels: (N,) int64 of these rows.
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
        """`function` of batches (B, 3, size, size) uint8, (B, ...), put together by row: (N, ...) on the CPU.

        Each byte of the shards is read once. advance: called with the number of images of each batch that is done.
        """
        whole: torch.Tensor | None = None
        for rows, pixels in self.batches(batch_size):
            values = function(pixels).cpu()
            if whole is None:
                whole = torch.empty(len(self), *values.shape[1:], dtype=values.dtype)
            whole[torch.from_numpy(rows)] = values
            advance(len(rows))
        assert whole is not None
        return whole

    def batches(
        self, batch_size: int, part: Callable[[int], slice] = lambda count: slice(count)
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """(rows (B,), images (B, 3, size, size) uint8) of every image once, in the order of the files.

        part: number of batches -> the slice of them to give, by default all. Raises ValueError where there is no image.
        """
        if not len(self):
            raise ValueError(f"{self.shards.folder}: split {self.shards.split} has no image")
        chunks = [self._rows[start : start + batch_size] for start in range(0, len(self), batch_size)]
        chunks = chunks[part(len(chunks))]
        decoded = map_ahead(self._decode, chunks, workers=self.workers, prefetch=self.workers)
        for rows, pixels in zip(chunks, decoded, strict=True):
            yield rows, torch.from_numpy(pixels)

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        squares = [decode_square(self.shards.bytes(int(row)), self.size) for row in rows]
        return np.stack(squares).transpose(0, 3, 1, 2).copy()


def labelled_rows(shards: ImageShards, masks: MaskShards) -> np.ndarray:
    """Rows (n,), ascending, of the images whose mask has a pixel with a label."""
    return np.flatnonzero(np.isin(shards.ids, masks.labelled_ids))


def decoded_masks(masks: MaskShards, shards: ImageShards, rows: np.ndarray, size: int) -> np.ndarray:
    """Labels (len(rows), size, size) uint8 of the masks of `rows`, which have one: upright, nearest neighbour.

    A mask turns with the EXIF orientation of its image; `masks` says which label a value stands for.
    """
    values = np.empty((len(rows), size, size), dtype=np.uint8)
    for place, row in enumerate(rows):
        mask = masks.bytes(int(shards.ids[row]))
        assert mask is not None, f"no mask of image {shards.ids[row]}"
        values[place] = decode_mask_square(mask, size, image=shards.bytes(row))
    return masks.labels[values]
