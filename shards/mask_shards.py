"""The encoded masks of a data set by image id, apart from its images, so that corrected masks leave the image shards as they are.

A folder of shards as of images: `<split>-NNNNN.parquet` with the columns mask {bytes, path} and id (of the image). The bytes are
those of the source files; the manifest says which label each value stands for, and the label of a row in the index whether any
of its pixels has one.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shards.image_shards import Encoded, ImageShards
from shards.row_index import SPLITS
from shards.shard_writer import ENCODED, ShardWriter

# The label of a pixel that has none.
UNLABELLED = 255


class MaskShardWriter(ShardWriter):
    """Writes a folder of mask shards. Without masks it has no shard.

    pixels: split -> (256,) int64, how many pixels of its masks have each value. labels: value -> label of every value that the
    masks hold, to be set before the block ends.
    """

    def __init__(self, folder: str | Path, *, shard_bytes: int, store: str = "") -> None:
        schema = pa.schema({"mask": ENCODED, "id": pa.uint64()})
        super().__init__(folder, schema, shard_bytes=shard_bytes, store=store)
        self.pixels = {split: np.zeros(256, dtype=np.int64) for split in SPLITS}
        self.labels: dict[int, int] = {}

    @property
    def values(self) -> list[int]:
        """The values that the masks of all splits hold, ascending."""
        held: list[int] = np.flatnonzero(sum(self.pixels.values())).tolist()
        return held

    def add(self, split: str, *, image_id: int, mask: bytes, path: str | None, pixels: np.ndarray) -> None:
        """Append the encoded mask of one image; pixels: (256,) how many have each value. Rows of a split follow each other."""
        self.pixels[split] += pixels
        row = {"mask": {"bytes": mask, "path": path}, "id": image_id}
        self._append(split, row, content=np.packbits(pixels > 0).tobytes(), label=0)

    def _labels(self, rows: np.ndarray) -> np.ndarray:
        """0 where a mask holds a value that has a label, else -1."""
        has_label = np.packbits([self.labels.get(value, UNLABELLED) != UNLABELLED for value in range(256)])
        return np.where((rows["content"] & has_label).any(axis=1), 0, -1)

    def _manifest(self, keys: dict[str, np.ndarray]) -> dict[str, Any]:
        assert self.labels.keys() == set(self.values), (self.labels, self.values)
        pixels = {
            split: {str(value): int(counts[value]) for value in counts.nonzero()[0]}
            for split, counts in self.pixels.items()
        }
        labels = {str(value): label for value, label in sorted(self.labels.items())}
        return {"classes": [], "labels": labels, "pixels": pixels}


class MaskShards:
    """The masks of one split of a data set, by image id.

    ids: (M,) uint64, ascending, of the images that have a mask. labelled_ids: those of them whose mask has a pixel with a label.
    labels: (256,) uint8, the label of each value, `UNLABELLED` for a value without one or that no mask holds. num_labels: one
    more than the largest label of all splits, 0 without any. pixels: (num_labels,) int64, pixels of each label in this split's
    masks. Faults, threads and processes: as `ImageShards`.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder = Path(folder)
        self._masks = ImageShards(folder, split)
        self.ids, self.labelled_ids = self._masks.ids, self._masks.ids[self._masks.labels >= 0]
        manifest = self._masks.manifest
        labels = {int(value): label for value, label in manifest["labels"].items()}
        self.labels = np.full(256, UNLABELLED, dtype=np.uint8)
        self.labels[list(labels)] = list(labels.values())
        self.num_labels = max((label + 1 for label in labels.values() if label != UNLABELLED), default=0)
        self.pixels = np.zeros(self.num_labels, dtype=np.int64)
        for value, count in manifest["pixels"][split].items():
            if labels[int(value)] != UNLABELLED:
                self.pixels[labels[int(value)]] += count

    def __len__(self) -> int:
        return len(self.ids)

    def bytes(self, image_id: int) -> Encoded | None:
        """The encoded mask of an image; None where it has none."""
        row = int(np.searchsorted(self.ids, np.uint64(image_id)))
        is_there = row < len(self) and self.ids[row] == image_id
        return self._masks.bytes(row) if is_there else None
