"""The index of a folder of image shards: the row of each image and the place of its bytes, in one memory-mapped file.

An Arrow IPC file with one record batch a split, in the order of `SPLITS`. A batch is one row of lists, so that their lengths
may differ. Rows, by ascending id: id, label, and position (the row's place in file order); row: the row at each position.
Row groups, in file order: number of rows, and the place of the image column in its file (one uncompressed page, each image
behind its length): start, bytes, CRC-32. 24 bytes an image and 24 a row group; processes of one machine share the pages.

Without it, opening would request the ids of every row group of every shard, and reading would hold every footer, at twelve
times its size.

Version: the index has none of its own. The manifest holds its SHA-256, and the manifest's version covers its layout.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from shards.files import sha256_of, whole_file
from shards.parquet_files import faulty, values_of

INDEX = "index.arrow"
SPLITS = ("train", "val", "test")
# Length of an image, little-endian, in front of it in a plain Parquet page.
LENGTH_BYTES = 4
_TYPES = {
    "id": pa.uint64(),
    "label": pa.int64(),
    "position": pa.int32(),
    "row": pa.int32(),
    "group_rows": pa.int32(),
    "group_start": pa.int64(),
    "group_bytes": pa.int64(),
    "group_crc32": pa.uint32(),
}
_SCHEMA = pa.schema([(name, pa.large_list(kind)) for name, kind in _TYPES.items()])


class Group(NamedTuple):
    """One row group: number of rows; start, bytes and CRC-32 of its image column in the file."""

    rows: int
    start: int
    bytes: int
    crc32: int


# Many row groups as one array.
GROUPS = np.dtype([("rows", "<i4"), ("start", "<i8"), ("bytes", "<i8"), ("crc32", "<u4")])


class RowIndex(NamedTuple):
    """The index of one split, N rows in G row groups; read-only.

    ids: (N,) uint64, ascending. labels: (N,) int64, -1 is none. positions: (N,) int32, each row's place in file order. rows: (N,)
    int32, the row at each position. group_*: (G,), see `Group`.
    """

    ids: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    rows: np.ndarray
    group_rows: np.ndarray
    group_start: np.ndarray
    group_bytes: np.ndarray
    group_crc32: np.ndarray

    def group(self, number: int) -> Group:
        """The row group of this number in file order."""
        return Group(*(int(values[number]) for values in self[-4:]))


def write_index(
    path: Path, ids: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Write the index and return its manifest entry.

    By split, in file order: ids (N,), labels (N,), and groups (G,) of dtype `GROUPS`.
    """
    with whole_file(path) as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        for split in SPLITS:
            order = np.argsort(ids[split], kind="stable").astype(np.int32)
            rows = np.empty_like(order)
            rows[order] = np.arange(len(order), dtype=np.int32)
            of_groups = (np.ascontiguousarray(groups[split][name]) for name in Group._fields)
            columns = (ids[split][order], labels[split][order], order, rows, *of_groups)
            arrays = [_list_of(kind, values) for kind, values in zip(_TYPES.values(), columns, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def read_index(folder: Path, entry: Mapping[str, Any], split: str) -> RowIndex:
    """The index of a split; entry: its manifest entry. A missing or damaged file is a ValueError."""
    path = folder / entry["file"]
    if not path.is_file() or sha256_of(path) != entry["sha256"]:
        raise faulty(path, "missing or damaged")
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(SPLITS.index(split))
    return RowIndex(*(values_of(pa.chunked_array([batch.column(name).values])) for name in _TYPES))


def kept_rows(index: RowIndex, keep: np.ndarray) -> RowIndex:
    """The index as if only the rows `keep` (N,) bool were there; positions remain those in the files.

    Of the groups only `group_rows` is meaningful in it, the kept rows of each group that has any.
    """
    if keep.all():
        return index
    numbers = np.cumsum(keep, dtype=np.int32) - 1
    in_files = keep[index.rows]
    groups = np.repeat(np.arange(len(index.group_rows)), index.group_rows)
    counts = np.bincount(groups[in_files], minlength=len(index.group_rows)).astype(np.int32)
    return index._replace(
        ids=index.ids[keep],
        labels=index.labels[keep],
        positions=index.positions[keep],
        rows=numbers[index.rows[in_files]],
        group_rows=counts[counts > 0],
    )


def _list_of(kind: pa.DataType, values: np.ndarray) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), pa.array(values, kind))
