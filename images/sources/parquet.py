"""A user's Parquet shards of images: `struct<bytes, path>` or plain bytes, and a label.

The split is read from the file or folder names, as Hugging Face writes them (`train-00000-of-00002.parquet`,
`data/validation/0000.parquet`). The path of a row is its `image.path` where every row has one and all differ, otherwise
file and row number; rows of our own shards keep their ids.
"""

import itertools
import json
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from images.decoding import Refused
from images.sources.items import Encoded, Item, Rejection, id_of
from images.sources.tree import Entry, Root, shown
from shards.storage import AHEAD_BYTES

SUFFIX = b".parquet"
ONE_CLASS = "all"
_SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_BATCH_ROWS = 64
# Of a batch, or one row: what a dictionary holds once may stand in every row.
_BATCH_BYTES = 2**27
# Pictures are compressed already, so that a column of them that inflates more is none; below the size it does no harm.
_MOST_INFLATION, _HARMLESS_BYTES = 50, 2**26
# The longest text of a footer in bytes, and the most entries of its lists.
_FOOTER_LIMITS = {"thrift_string_size_limit": 2**24, "thrift_container_size_limit": 10**6}
_LISTED_AT_ONCE = 16


class ParquetSource:
    """Rows of Parquet files. A file that cannot be read or lacks a column is a ValueError that names it.

    A row without a label, or with a negative one as in public test sets, is rejected. An empty `label_column` puts
    every image into the one class `all`. Masks are read from a struct column `mask`, where there is one.
    """

    read_in_order = True

    def __init__(self, root: Root, entries: list[Entry], *, image_column: str, label_column: str) -> None:
        self._root, self._image, self._label = root, image_column, label_column
        shards = [entry for entry in entries if is_shard(entry)]
        self._shards, self._sizes = [entry.path for entry in shards], [entry.size for entry in shards]
        self._lock = threading.Lock()
        self._current: _ShardReader | None = None
        self.rejected = [_rejection(entry) for entry in entries if not is_shard(entry)]
        # Several at once, because a store answers slowly and to many.
        with ThreadPoolExecutor(_LISTED_AT_ONCE) as pool:
            listed = list(pool.map(self._list, range(len(self._shards))))
        self.has_masks = all(_is_encoded(shard.schema, "mask") for shard in listed)
        names = _class_names(listed[0].schema, label_column)
        values = [self._labels_of(shard, names) for shard in listed]
        if names is None:
            # Numbers sort by value, text by letters; a source holds one of them.
            names = sorted({value for shard in values for value in shard if value is not None}, key=_natural)
        self.classes = names
        labels = {name: label for label, name in enumerate(names)}
        self.items = []
        paths = self._paths(listed)
        for number, shard in enumerate(values):
            split, ids = split_of(self._shards[number]), listed[number].ids
            for row, value in enumerate(shard):
                path = next(paths)
                if value is None:
                    self.rejected.append(Rejection(shown(path), split, "", "no label", "null or negative"))
                else:
                    image_id = id_of(path) if ids is None else int(ids[row])
                    self.items.append(Item(path, image_id, split, labels[value], (number, row)))

    def read(self, item: Item) -> Encoded:
        """The bytes of a row and its mask; raises `Refused`."""
        number, row = item.place
        with self._lock:
            if self._current is None or self._current.number != number:
                columns = [self._image, "mask"] if self.has_masks else [self._image]
                self._current = _ShardReader(number, self._file(number, in_order=True), columns)
            values = self._current.row(row)
        image, mask = values[self._image], values.get("mask")
        if isinstance(image, dict):
            image = image["bytes"]
        if image is None:
            raise Refused("empty", "no bytes in this row; only a path" if values[self._image] else "null")
        if mask is None or mask["bytes"] is None:
            return Encoded(image)
        return Encoded(image, mask["bytes"], mask["path"])

    def _file(self, number: int, *, in_order: bool) -> pq.ParquetFile:
        """in_order: for reading images from front to back; else for some columns, and a store sends only these."""
        path = self._shards[number]
        try:
            # Opened here, because Arrow's own opening takes no name that is not UTF-8.
            file = self._root.open(path, ahead=AHEAD_BYTES if in_order else 0)
            return pq.ParquetFile(file, pre_buffer=not in_order, **_FOOTER_LIMITS)
        except (OSError, pa.ArrowException) as error:
            reason, name = " ".join(str(error).split()), f"{self._root.name}/{os.fsdecode(path)}"
            raise ValueError(f"{name}: not a readable Parquet file ({reason}); fetch it again") from None

    def _list(self, number: int) -> "_Listed":
        """All of a shard but its images: one pass over its small columns."""
        with self._file(number, in_order=False) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            self._check(number, schema)
            self._refuse_bomb(number, file.metadata)
            is_own = "sha256" in schema.names and "id" in schema.names and schema.field("id").type == pa.uint64()
            has_paths = _is_encoded(schema, self._image)
            # One leaf of the struct: the images themselves are not read.
            leaves = [*([f"{self._image}.path"] if has_paths else []), *([self._label] if self._label else [])]
            table = file.read(columns=[*leaves, *(["id"] if is_own else [])])
        paths: list[bytes | None] = [None] * rows
        if has_paths:
            stored = table[self._image].combine_chunks().field("path").to_pylist()
            paths = [path.encode() if path else None for path in stored]
        labels = table[self._label].to_pylist() if self._label else None
        return _Listed(schema, rows, labels, paths, table["id"].to_numpy() if is_own else None)

    def _refuse_bomb(self, number: int, metadata: pq.FileMetaData) -> None:
        """ValueError where the footer of a small file claims more than images can hold; no page is read before that.

        A footer that claims too little is not detected.
        """
        name, size = f"{self._root.name}/{shown(self._shards[number])}", self._sizes[number]
        if metadata.num_rows > size:
            raise ValueError(f"{name}: {metadata.num_rows} rows in {size} bytes; no row of it can be an image")
        for row_group, column in _column_chunks(metadata):
            packed, whole = column.total_compressed_size, column.total_uncompressed_size
            if packed > size or whole > max(_HARMLESS_BYTES, _MOST_INFLATION * packed):
                raise ValueError(
                    f"{name}: {column.path_in_schema} of row group {row_group} inflates from {packed} to {whole} bytes in "
                    f"a file of {size}; images inflate less than {_MOST_INFLATION} times; leave the file out or fetch it again"
                )

    def _check(self, number: int, schema: pa.Schema) -> None:
        """ValueError where a shard lacks a column; it names the missing one and those of the shard."""
        name, columns = shown(self._shards[number]), ", ".join(schema.names)
        if not _is_encoded(schema, self._image) and not _is_binary(schema, self._image):
            raise ValueError(
                f"data.image_column: {name} has no column {self._image!r} of encoded images, only {columns}"
            )
        if self._label and self._label not in schema.names:
            raise ValueError(
                f"data.label_column: {name} has no column {self._label!r}, only {columns}; '' puts all images into one class"
            )
        if self._label and pa.types.is_nested(schema.field(self._label).type):
            raise ValueError(f"data.label_column: {self._label!r} of {name} is {schema.field(self._label).type}")

    def _labels_of(self, shard: "_Listed", names: list[str] | None) -> list[str | None]:
        """Class name of every row of a shard, None where it has none."""
        if shard.labels is None:
            return [ONE_CLASS] * shard.rows
        return [_class_name(value, names) for value in shard.labels]

    def _paths(self, listed: list["_Listed"]) -> Iterator[bytes]:
        """Path of every row, in order."""
        own = [path for shard in listed for path in shard.paths if path is not None]
        if len(set(own)) == sum(len(shard.paths) for shard in listed):
            return iter(own)
        return (
            name + b"/%08d" % row for name, shard in zip(self._shards, listed, strict=True) for row in range(shard.rows)
        )


class _Listed(NamedTuple):
    """What is read of a shard before its images. labels: None for one class. ids: of a shard of our own, else None."""

    schema: pa.Schema
    rows: int
    labels: list[Any] | None
    paths: list[bytes | None]
    ids: np.ndarray | None


class _ShardReader:
    """Rows of one file, read forward in small batches; a step back starts at the row group again."""

    def __init__(self, number: int, file: pq.ParquetFile, columns: list[str]) -> None:
        self.number, self._file, self._columns = number, file, columns
        groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        largest = max((group.total_byte_size for group in groups), default=1)
        self._rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, largest)))
        sizes = [group.num_rows for group in groups]
        self._starts = list(itertools.accumulate(sizes, initial=0))
        self._batch: pa.RecordBatch
        self._seek(0)

    def row(self, row: int) -> dict[str, Any]:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if row < self._first or self._starts[group] >= self._first + 8 * self._rows:
            self._seek(group)
        while row >= self._first + self._batch.num_rows:
            self._first += self._batch.num_rows
            self._batch = next(self._batches)
        return {name: self._batch[name][row - self._first].as_py() for name in self._columns}

    def _seek(self, group: int) -> None:
        groups = range(group, self._file.num_row_groups)
        self._batches = self._file.iter_batches(
            self._rows, row_groups=list(groups), columns=self._columns, use_threads=False
        )
        self._first = self._starts[group]
        self._batch = next(self._batches)


def _column_chunks(metadata: pq.FileMetaData) -> Iterator[tuple[int, pq.ColumnChunkMetaData]]:
    """(number of the row group, column chunk) of a whole file."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        yield from ((number, group.column(place)) for place in range(group.num_columns))


def is_shard(entry: Entry) -> bool:
    """Whether an entry is a Parquet file by its name."""
    return not entry.problem and entry.path.lower().endswith(SUFFIX)


def split_of(path: bytes) -> str:
    """Split that a path names, the last name first: train, val, test, or empty."""
    words = re.split(rb"[^a-z0-9]+", path.lower().removesuffix(SUFFIX))
    splits = [_SPLIT_WORDS[word.decode()] for word in words if word.decode() in _SPLIT_WORDS]
    return splits[-1] if splits else ""


def _rejection(entry: Entry) -> Rejection:
    reason = entry.problem or "not an image"
    return Rejection(shown(entry.path), "", "", reason, entry.detail or "beside Parquet shards")


def _is_encoded(schema: pa.Schema, column: str) -> bool:
    if column not in schema.names or not pa.types.is_struct(schema.field(column).type):
        return False
    kind = schema.field(column).type
    return kind.get_field_index("bytes") >= 0 and kind.get_field_index("path") >= 0


def _is_binary(schema: pa.Schema, column: str) -> bool:
    if column not in schema.names:
        return False
    kind = schema.field(column).type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Names of a Hugging Face ClassLabel column, else None."""
    if not column:
        return [ONE_CLASS]
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get(column, {})
    return feature.get("names") if feature.get("_type") == "ClassLabel" else None


def _class_name(value: Any, names: list[str] | None) -> str | None:
    if value is None or (isinstance(value, int) and value < 0):
        return None
    if names is None or isinstance(value, str):
        return str(value)
    return names[value] if value < len(names) else None


def _natural(name: str) -> tuple[bool, int, str]:
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)
