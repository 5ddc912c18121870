"""Parquet shards of encoded images in the Hugging Face convention, and a manifest that is written last.

`<split>-NNNNN.parquet` with the columns image {bytes, path}, label, id and sha256. The bytes are those of the source files.
pandas, pyarrow, duckdb and `datasets` read the files directly. With a store the shards lie there, each under its hash, and the
folder holds only the manifest and the index. Masks lie in a folder of their own (`shards.mask_shards`).
"""

import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from shards.parquet_files import Place, faulty, find, opened, read_range, values_of
from shards.row_index import LENGTH_BYTES, SPLITS, kept_rows, read_index
from shards.seals import read_manifest
from shards.shard_writer import VERSION

HELD_GROUPS = 16
# Bytes that a pass through a shard reads at once: few requests to a store, little memory.
SPAN_BYTES = 8 * 2**20
# `ImageShards` has a method named `bytes`.
Encoded = bytes


class Shard(NamedTuple):
    """One shard, a file of the folder or an object of its store, as the manifest describes it."""

    path: Place
    rows: int
    bytes: int
    sha256: str
    footer: Mapping[str, Any]

    @property
    def name(self) -> str:
        """File name: the last part of the path or URL."""
        return str(self.path).rpartition("/")[2]

    def open(self) -> AbstractContextManager[pq.ParquetFile]:
        """Open the file for reading; damage is a ValueError that names it."""
        return opened(self.path, size=self.bytes, footer=self.footer)


def list_shards(folder: str | Path, *splits: str) -> list[Shard]:
    """Every shard of these splits, by default of all, in written order; a missing or truncated one is a ValueError.

    Opens no shard.
    """
    listed = read_manifest(Path(folder), VERSION)["splits"]
    return _shards(Path(folder), [shard for split in splits or SPLITS for shard in listed[split]["shards"]])


def _shards(folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[Shard]:
    return [
        Shard(place, entry["rows"], entry["bytes"], entry["sha256"], entry["footer"])
        for place, entry in zip(find(folder, entries), entries, strict=True)
    ]


def ids_of(shard: Shard) -> np.ndarray:
    """Ids (N,) uint64 of one shard, in file order, without its images."""
    with shard.open() as file:
        ids: np.ndarray = values_of(file.read(columns=["id"], use_threads=False)["id"])
        return ids


def read_shard(shard: Shard, batch_size: int) -> Iterator[tuple[np.ndarray, list[Encoded]]]:
    """Batches of ids (B,) uint64 and B encoded images of one shard, in file order; only the last batch is smaller.

    Memory: one batch and `SPAN_BYTES` of neighbouring row groups, which a store sends in one request. A damaged file is a
    ValueError that names it.
    """
    waiting: list[tuple[int, Encoded]] = []
    with shard.open() as file:
        for groups in _spans(file.metadata):
            table = file.read_row_groups(groups, columns=["id", "image"], use_threads=False)
            images = table["image"].combine_chunks().field("bytes").to_pylist()
            waiting.extend(zip(table["id"].to_pylist(), images, strict=True))
            del table
            while len(waiting) >= batch_size:
                yield _batch(waiting[:batch_size])
                del waiting[:batch_size]
    if waiting:
        yield _batch(waiting)


class ImageShards:
    """One split of a folder of image shards. Rows are numbered by ascending id, whatever shard holds them.

    So nothing computed from row numbers depends on the order of preparation or on where the shards lie.
    ids: (N,) uint64 and labels: (N,) int64, by row; -1 is no label. storage: (N,) int32, the row numbers in file order, for a
    pass that reads each byte once. group_sizes: (G,) rows of each row group in file order; a group is the least that is read
    at once. All but the labels are read-only and memory-mapped from the index.
    labelled: leave the images without a label out, as if the files did not hold them. only: ids of the images to keep.

    Opening checks the manifest's version, the presence and size of every shard of the split, and the index; a fault is a
    ValueError that names the file. Threads may share one `ImageShards`; each process opens its own.
    """

    def __init__(
        self, folder: str | Path, split: str, *, labelled: bool = False, only: np.ndarray | None = None
    ) -> None:
        self.folder, self.split, self._is_labelled, self._only = Path(folder), split, labelled, only
        self.manifest: dict[str, Any] = read_manifest(self.folder, VERSION)
        if split not in self.manifest["splits"]:
            raise ValueError(f"{self.folder}: no split {split}; there are {', '.join(self.manifest['splits'])}")
        self.classes: list[str] = self.manifest["classes"]
        # Row groups kept in memory: one a reading thread, or as many as a shuffling reader returns to.
        self.held_groups = HELD_GROUPS
        self._held: OrderedDict[int, Future[list[Encoded]]] = OrderedDict()
        self._lock = threading.Lock()
        self._shards = _shards(self.folder, self.manifest["splits"][split]["shards"])
        self._index = index = read_index(self.folder, self.manifest["index"], split)
        self._group_ends = np.cumsum(index.group_rows, dtype=np.int64)
        if labelled:
            index = kept_rows(index, index.labels >= 0)
        if only is not None:
            index = kept_rows(index, np.isin(index.ids, only))
        self.ids, self.storage, self.group_sizes = index.ids, index.rows, index.group_rows
        self._labels, self._positions = index.labels, index.positions
        self._shard_ends = np.cumsum([shard.rows for shard in self._shards], dtype=np.int64)
        # Number of each shard's first row group.
        self._first_groups = np.searchsorted(self._group_ends, [0, *self._shard_ends[:-1]], side="right")

    @cached_property
    def labels(self) -> np.ndarray:
        """Class labels (N,) int64 by row."""
        # A copy, because torch refuses read-only memory.
        return self._labels.copy()

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple["partial[ImageShards]", tuple[Path, str]]:
        return partial(ImageShards, labelled=self._is_labelled, only=self._only), (self.folder, self.split)

    def bytes(self, row: int) -> Encoded:
        """The encoded image of one row."""
        group, place = self._locate(row)
        return self._group(group)[place]

    def _locate(self, row: int) -> tuple[int, int]:
        """Row group and place in it."""
        position = int(self._positions[row])
        group = int(np.searchsorted(self._group_ends, position, side="right"))
        return group, position - int(self._group_ends[group]) + int(self._index.group_rows[group])

    def _group(self, group: int) -> list[Encoded]:
        """The images of one row group, from those used last; a group that another thread reads is waited for."""
        with self._lock:
            held = self._held.get(group)
            is_mine = held is None
            if held is None:
                held = self._held[group] = Future()
            self._held.move_to_end(group)
            while len(self._held) > self.held_groups:
                self._held.popitem(last=False)
        if is_mine:
            try:
                held.set_result(self._read(group))
            except BaseException as error:
                # The next reader tries again.
                with self._lock:
                    self._held.pop(group, None)
                held.set_exception(error)
        return held.result()

    def _read(self, number: int) -> list[Encoded]:
        """Read the images of a row group from their column's bytes: one request, no footer."""
        shard, group = self._shard_of(number), self._index.group(number)
        data = read_range(self._shards[shard].path, group.start, group.bytes)
        if zlib.crc32(data) != group.crc32:
            raise faulty(self._shards[shard].path, f"damaged (row group {number - int(self._first_groups[shard])})")
        images, at = [], 0
        for _ in range(group.rows):
            start = at + LENGTH_BYTES
            at = start + int.from_bytes(data[at:start], "little")
            images.append(data[start:at])
        return images

    def _shard_of(self, group: int) -> int:
        return int(np.searchsorted(self._first_groups, group, side="right")) - 1


def _spans(footer: pq.FileMetaData) -> Iterator[list[int]]:
    """Row group numbers of a file in order, grouped to at most `SPAN_BYTES`."""
    span: list[int] = []
    size = 0
    for group in range(footer.num_row_groups):
        more = footer.row_group(group).total_byte_size
        if span and size + more > SPAN_BYTES:
            yield span
            span, size = [], 0
        span.append(group)
        size += more
    if span:
        yield span


def _batch(rows: list[tuple[int, Encoded]]) -> tuple[np.ndarray, list[Encoded]]:
    return np.array([image_id for image_id, _ in rows], dtype=np.uint64), [image for _, image in rows]
