"""The cache of part labels: one label a patch of every image, stored as array shards of their version."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from shards.arrays import PAGE_ROWS, ArrayShards, ArrayShardWriter


class MaskCacheWriter:
    """Context manager that writes a mask cache: one label a patch, in as few bits as the labels need, highest bit first.

    header: grid [h, w], patch_size (teacher pixels), num_parts K, background (id K, or null), kind (`labels`, or `ranks` with
    values 0..255), teacher and part_learner (digests).
    """

    def __init__(self, folder: str | Path, *, header: Mapping[str, Any], shard_rows: int = PAGE_ROWS) -> None:
        values = 256 if header["kind"] == "ranks" else header["num_parts"] + (header["background"] is not None)
        self.bits = max(1, (values - 1).bit_length())
        self.values = values
        self.grid = tuple(header["grid"])
        size = (self.grid[0] * self.grid[1] * self.bits + 7) // 8
        columns = {"labels": ("|u1", (size,))}
        self._shards = ArrayShardWriter(
            folder, columns=columns, header={**header, "bits": self.bits}, shard_rows=shard_rows
        )

    def __enter__(self) -> "MaskCacheWriter":
        self._shards.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._shards.__exit__(*error)

    def add(self, ids: np.ndarray, labels: np.ndarray) -> None:
        """Append labels (N, h, w), values below 2**bits, for ids (N,)."""
        assert labels.shape[1:] == self.grid, (labels.shape, self.grid)
        assert not labels.size or int(labels.max()) < self.values, f"label {labels.max()} of {self.values}"
        flat = labels.reshape(len(labels), -1)
        planes = np.empty((*flat.shape, self.bits), dtype=np.uint8)
        for plane in range(self.bits):
            planes[:, :, plane] = (flat >> (self.bits - 1 - plane)) & 1
        self._shards.add(ids, labels=np.packbits(planes.reshape(len(labels), -1), axis=1))


class MaskCache:
    """Part labels by image id: `cache[id]` is (grid_h, grid_w) uint8; KeyError names an unknown id.

    Labels 0..K-1 are parts, K is background where the header names one.
    """

    def __init__(self, folder: str | Path) -> None:
        self._shards = ArrayShards(folder)
        self.header = self._shards.header
        self._unpacked = lru_cache(maxsize=4)(self._unpack_shard)

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, image_id: int) -> np.ndarray:
        labels: np.ndarray = self.rows(np.array([image_id], dtype=np.uint64))[0]
        return labels

    @property
    def ids(self) -> np.ndarray:
        """All ids (N,) uint64."""
        return self._shards.ids

    @property
    def num_shards(self) -> int:
        """Number of shard files."""
        return self._shards.num_shards

    def shard(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids (N,) uint64 and labels (N, grid_h, grid_w) uint8 of one shard."""
        return self._unpacked(index)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Row (N,) int64 of each id; KeyError names the first unknown one."""
        return self._shards.find(ids)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Labels (N, grid_h, grid_w) uint8 at `ids` (N,), in their order."""
        return self._unpack(self._shards.rows(ids, "labels"))

    def _unpack_shard(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        ids, arrays = self._shards.shard(index)
        return ids, self._unpack(arrays["labels"])

    def _unpack(self, packed: np.ndarray) -> np.ndarray:
        height, width = self.header["grid"]
        bits, count = self.header["bits"], height * width
        planes = np.unpackbits(packed, axis=1, count=count * bits)
        labels = planes[:, ::bits].copy()
        for plane in range(1, bits):
            labels <<= 1
            labels |= planes[:, plane::bits]
        return labels.reshape(len(packed), height, width)
