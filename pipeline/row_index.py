"""The index of a folder of image shards: which image is which row, and where it lies, in one file that is memory-mapped.

An Arrow IPC file with one record batch a split, in the order of `SPLITS`. A batch has one row of lists, so that their lengths
may differ: id and label by row, rows ordered by id; position, the place of each row in the order of the files; row, the row
at each position; group_rows, the rows of each row group in the order of the files. Some 24 bytes an image, which stay on
the disk: processes of one machine share the pages that they touch. Without it, opening would read the ids out of every
shard, a request for each of its row groups.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.columns import values_of
from pipeline.files import distrust, sha256_of, whole_file

INDEX = "index.arrow"
SPLITS = ("train", "val", "test")
_TYPES = {"id": pa.uint64(), "label": pa.int64(), "position": pa.int32(), "row": pa.int32(), "group_rows": pa.int32()}
_SCHEMA = pa.schema([(name, pa.large_list(kind)) for name, kind in _TYPES.items()])


class RowIndex(NamedTuple):
    """The index of one split, N rows in G row groups; read-only.

    ids: (N,) uint64, ascending. labels: (N,) int64. positions: (N,) int32, of each row in the order of the files. rows: (N,)
    int32, the row at each position. group_rows: (G,) int32.
    """

    ids: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    rows: np.ndarray
    group_rows: np.ndarray


def write_index(
    path: Path, ids: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], group_rows: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Write the index of ids and labels as they lie in the files, by split; its entry in the manifest."""
    with whole_file(path) as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        for split in SPLITS:
            order = np.argsort(ids[split], kind="stable").astype(np.int32)
            rows = np.empty_like(order)
            rows[order] = np.arange(len(order), dtype=np.int32)
            columns = (ids[split][order], labels[split][order], order, rows, group_rows[split])
            writer.write_batch(pa.record_batch([*map(_list_of, _TYPES.values(), columns)], schema=_SCHEMA))
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def read_index(folder: Path, entry: Mapping[str, Any], split: str) -> RowIndex:
    """The index of a split as the manifest names it; one that is not byte for byte what was written is a ValueError."""
    path = folder / entry["file"]
    if not path.is_file() or sha256_of(path) != entry["sha256"]:
        distrust(path)
        raise ValueError(f"{path}: missing or damaged; delete the folder and run `dvc repro`")
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(SPLITS.index(split))
    return RowIndex(*(values_of(pa.chunked_array([batch.column(name).values])) for name in _TYPES))


def _list_of(kind: pa.DataType, values: np.ndarray | Sequence[int]) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), pa.array(values, kind))
