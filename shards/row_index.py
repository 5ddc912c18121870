"""The index of a folder of image shards: which image is which row, and where its bytes lie, in one file that is mapped.

An Arrow IPC file with one record batch a split, in the order of `SPLITS`. A batch has one row of lists, so that their lengths
may differ. Of the rows, ordered by id: id, label, and position, the place of the row in the order of the files; row, the row
at each position. Of the row groups in the order of the files: how many rows; and where in its file the column of images
lies, uncompressed in one page, each image behind its length: start, bytes, and their CRC-32. 24 bytes an image and
24 a row group, which stay on the disk: processes of one machine share the pages that they touch.

Without it, opening would read the ids out of every shard, a request for each of its row groups, and reading would need every
footer, which takes twelve times its size in memory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from shards.columns import values_of
from shards.files import sha256_of, whole_file
from shards.parquet_files import faulty

INDEX = "index.arrow"
SPLITS = ("train", "val", "test")
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
    """One row group: its rows, and where the images lie in its file, with their CRC-32."""

    rows: int
    start: int
    bytes: int
    crc32: int


# Of many of them.
GROUPS = np.dtype([("rows", "<i4"), ("start", "<i8"), ("bytes", "<i8"), ("crc32", "<u4")])


class RowIndex(NamedTuple):
    """The index of one split, N rows in G row groups; read-only.

    ids: (N,) uint64, ascending. labels: (N,) int64. positions: (N,) int32, of each row in the order of the files. rows: (N,)
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
        """One row group."""
        return Group(*(int(values[number]) for values in self[-4:]))


def write_index(
    path: Path, ids: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Write the index of ids (N,), labels (N,) and row groups (G,) `GROUPS` as they lie in the files, by split.

    Returns its entry in the manifest.
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
    """The index of a split as the manifest names it; one that is not byte for byte what was written is a ValueError."""
    path = folder / entry["file"]
    if not path.is_file() or sha256_of(path) != entry["sha256"]:
        raise faulty(path, "missing or damaged")
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(SPLITS.index(split))
    return RowIndex(*(values_of(pa.chunked_array([batch.column(name).values])) for name in _TYPES))


def _list_of(kind: pa.DataType, values: np.ndarray) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), pa.array(values, kind))
