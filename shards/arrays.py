"""Parquet shards of fixed-shape arrays by image id.

A folder holds `shard-00000.parquet`, ... and a `manifest.json`, which is written last: without it the folder is incomplete.
Every row is an id (uint64) and one fixed-size binary value a column; the manifest and each file's metadata hold the header
that explains them. pyarrow alone reads them, without pickle. A column of a shard is one uncompressed page, so a lookup among
millions of rows reads only the rows it needs.
"""

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property, lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.files import sha256_of, whole_file, whole_folder
from shards.parquet_files import faulty, find, keep, opened, values_of
from shards.seals import MANIFEST, read_manifest, write_sealed
from shards.storage import REQUESTS

# Of the manifest and the shards together, and so of a mask cache; readers refuse another one.
VERSION = 2
# Most rows and bytes of a column in one Parquet page: Arrow starts a new page at 20,000 rows, and a page holds less than 2 GiB.
PAGE_ROWS, PAGE_BYTES = 16384, 2**28


def shard_name(number: int) -> str:
    """File name of a shard by its number in the folder."""
    return f"shard-{number:05d}.parquet"


class ArrayShardWriter:
    """Writes a folder of array shards; the folder appears when the `with` block ends without an error.

    columns: name -> (NumPy dtype, shape of a row). Rows keep the order in which they are added. A shard closes at
    `shard_rows` rows, or before a column outgrows one page, so memory holds one shard.
    store: URL prefix of the shards, or empty: they stay in the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        columns: Mapping[str, tuple[str, tuple[int, ...]]],
        header: Mapping[str, Any],
        shard_rows: int,
        store: str = "",
    ) -> None:
        self.columns = {name: (np.dtype(kind), tuple(shape)) for name, (kind, shape) in columns.items()}
        described = {name: {"dtype": kind.str, "shape": list(shape)} for name, (kind, shape) in self.columns.items()}
        self.header = {**header, "columns": described}
        self.store = store
        widest = max((kind.itemsize * int(np.prod(shape)) for kind, shape in self.columns.values()), default=1)
        self.shard_rows = min(shard_rows, PAGE_ROWS, max(1, PAGE_BYTES // widest))
        fields = [pa.field("id", pa.uint64(), nullable=False)]
        for name, (kind, shape) in self.columns.items():
            fields.append(pa.field(name, pa.binary(kind.itemsize * int(np.prod(shape))), nullable=False))
        self.schema = pa.schema(fields, metadata={"header": json.dumps(self.header, sort_keys=True)})
        self._target = whole_folder(folder)
        self._waiting: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        self._rows = 0
        self._shards: list[dict[str, Any]] = []

    def __enter__(self) -> "ArrayShardWriter":
        self.folder = self._target.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            self._target.__exit__(*error)
            return
        with ExitStack() as stack:
            # A failure from here on leaves no folder either.
            stack.push(self._target)
            if self._rows:
                self._write(self._rows)
            write_sealed(self.folder / MANIFEST, {"version": VERSION, "header": self.header, "shards": self._shards})

    def add(self, ids: np.ndarray, **arrays: np.ndarray) -> None:
        """Append rows: ids (N,) uint64 and for every column an array (N, *shape)."""
        assert arrays.keys() == self.columns.keys(), (list(arrays), list(self.columns))
        rows = {}
        for name, (kind, shape) in self.columns.items():
            values = np.ascontiguousarray(arrays[name], dtype=kind)
            assert values.shape == (len(ids), *shape), f"{name}: {values.shape} instead of {(len(ids), *shape)}"
            rows[name] = values
        self._waiting.append((np.ascontiguousarray(ids, dtype=np.uint64), rows))
        self._rows += len(ids)
        while self._rows >= self.shard_rows:
            self._write(self.shard_rows)

    def _write(self, count: int) -> None:
        ids = np.concatenate([ids for ids, _ in self._waiting])
        arrays = {name: np.concatenate([rows[name] for _, rows in self._waiting]) for name in self.columns}
        values = [pa.array(ids[:count])]
        for name in self.columns:
            field = self.schema.field(name).type
            buffer = pa.py_buffer(np.ascontiguousarray(arrays[name][:count]))
            values.append(pa.Array.from_buffers(field, count, [None, buffer]))
        path = self.folder / shard_name(len(self._shards))
        with whole_file(path) as file:
            pq.write_table(
                pa.Table.from_arrays(values, schema=self.schema),
                file,
                # Compression would save a third of the labels, on a disk where images take a thousand times as much.
                compression="NONE",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
                row_group_size=self.shard_rows,
                data_page_size=2 * PAGE_BYTES,
            )
        self._shards.append({"rows": count, **keep(path, self.store)})
        self._waiting = [(ids[count:], {name: values[count:] for name, values in arrays.items()})]
        self._rows -= count


class ArrayShards:
    """Reads a folder that `ArrayShardWriter` wrote.

    Opening checks the version, and the presence and size of every shard; the first read of a shard checks its hash. A
    missing, truncated or damaged file is a ValueError that names it. Memory: 12 bytes a row after the first lookup.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder, VERSION)
        self.header: dict[str, Any] = manifest["header"]
        self._shards: list[dict[str, Any]] = manifest["shards"]
        self._places = find(self.folder, self._shards)
        self._starts = np.cumsum([0, *(shard["rows"] for shard in self._shards)])[:-1]
        self._offsets: dict[int, dict[str, int]] = {}
        self._load = lru_cache(maxsize=4)(self._read)
        self._sound: set[int] = set()

    def __len__(self) -> int:
        return sum(shard["rows"] for shard in self._shards)

    @property
    def num_shards(self) -> int:
        """Number of shard files."""
        return len(self._shards)

    def shard(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Ids (N,) uint64 and the columns (N, *shape) of one shard, read-only."""
        table = self._load(index)
        arrays = {name: _view(table[name], spec) for name, spec in self.header["columns"].items()}
        return values_of(table["id"]), arrays

    @property
    def ids(self) -> np.ndarray:
        """All ids (N,) uint64 in the order of the shards."""
        # In parallel, because each request to a store is slow.
        with ThreadPoolExecutor(REQUESTS) as pool:
            tables = pool.map(lambda index: self._read(index, ("id",)), range(self.num_shards))
            return np.concatenate([np.empty(0, np.uint64), *(values_of(table["id"]) for table in tables)])

    def rows(self, ids: np.ndarray, name: str) -> np.ndarray:
        """Column `name` at `ids` (N,), in their order: (N, *shape). KeyError names the first unknown id.

        Reads only these rows, in file order, neighbours together; leaves no file open.
        """
        numbers, spec = self.find(ids), self.header["columns"][name]
        order = np.argsort(numbers)
        numbers = numbers[order]
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        places = numbers - self._starts[shards]
        first = np.flatnonzero(np.append(True, (np.diff(numbers) != 1) | (np.diff(shards) != 0))[: len(numbers)])
        counts = np.diff(np.append(first, len(numbers)))
        runs = zip(shards[first].tolist(), places[first].tolist(), counts.tolist(), strict=True)
        read: list[bytes] = []
        for index, some in groupby(runs, key=itemgetter(0)):
            read += self._read_rows(index, name, some)
        values = np.frombuffer(b"".join(read), dtype=spec["dtype"]).reshape(len(ids), *spec["shape"])
        out = np.empty_like(values)
        out[order] = values
        return out

    def has(self, ids: np.ndarray) -> bool:
        """Whether every one of the ids (N,) has a row."""
        try:
            self.find(ids)
        except KeyError:
            return False
        return True

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Row number (N,) int64 of each id, counted over all shards; KeyError names the first unknown one."""
        known, order = self._index
        ids = np.asarray(ids, dtype=np.uint64)
        places = np.searchsorted(known, ids)
        places[places == len(known)] = 0
        wrong = known[places] != ids if len(known) else np.ones(len(ids), bool)
        if wrong.any():
            raise KeyError(f"id {int(ids[wrong][0])} is not in {self.folder}")
        return order[places].astype(np.int64)

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """All ids, ascending, and the row of each: 12 bytes an image."""
        ids = self.ids
        assert len(ids) < 2**32, f"{len(ids)} rows in one folder"
        order = np.argsort(ids).astype(np.uint32)
        return ids[order], order

    def _read_rows(self, index: int, name: str, runs: Iterable[tuple[int, int, int]]) -> list[bytes]:
        """Bytes of runs (shard, first row, rows) of one column of a shard; an object of a store is read whole."""
        path = self._places[index]
        if not isinstance(path, Path):
            values = self.shard(index)[1][name]
            return [values[place : place + count].tobytes() for _, place, count in runs]
        self._check(index)
        if index not in self._offsets:
            self._offsets[index] = self._offsets_of(path)
        start, width = self._offsets[index][name], self._row_bytes(name)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return [os.pread(descriptor, count * width, start + place * width) for _, place, count in runs]
        finally:
            os.close(descriptor)

    def _offsets_of(self, path: Path) -> dict[str, int]:
        """Column -> offset of its values: one page of plain values without nulls ends where the column chunk ends."""
        group = pq.read_metadata(path).row_group(0)
        chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
        return {
            name: chunks[name].data_page_offset
            + chunks[name].total_compressed_size
            - group.num_rows * self._row_bytes(name)
            for name in self.header["columns"]
        }

    def _row_bytes(self, name: str) -> int:
        spec = self.header["columns"][name]
        return int(np.dtype(spec["dtype"]).itemsize * np.prod(spec["shape"]))

    def _read(self, index: int, columns: tuple[str, ...] | None = None) -> pa.Table:
        self._check(index)
        place, shard = self._places[index], self._shards[index]
        with opened(place, size=shard["bytes"], footer=shard["footer"]) as file:
            return file.read(columns=None if columns is None else list(columns), use_threads=False).combine_chunks()

    def _check(self, index: int) -> None:
        """Compare a file with its hash, once a process: page checksums miss headers and partly read pages.

        A store checks hashes itself.
        """
        place, shard = self._places[index], self._shards[index]
        if index not in self._sound and isinstance(place, Path) and sha256_of(place) != shard["sha256"]:
            raise faulty(place, "damaged: its sha256 differs from the manifest's")
        self._sound.add(index)


def _view(column: pa.ChunkedArray, spec: Mapping[str, Any]) -> np.ndarray:
    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    kind = np.dtype(spec["dtype"])
    width = int(np.prod(spec["shape"]))
    values = np.frombuffer(
        array.buffers()[1], dtype=kind, count=len(array) * width, offset=array.offset * width * kind.itemsize
    )
    return values.reshape(len(array), *spec["shape"])
