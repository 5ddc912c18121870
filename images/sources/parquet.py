"""Parquet files of images: read by their small columns first, then from front to back in small batches."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from images.sources.columns import find_columns, has_images
from images.sources.containers import Container, Rows
from images.sources.items import Encoded
from images.sources.tables import Columns
from images.sources.tree import Entry, Root
from shards.storage import AHEAD_BYTES

_BATCH_ROWS = 64
# Of a batch, or one row: what a dictionary holds once may stand in every row.
_BATCH_BYTES = 2**27
# Pictures are compressed already, so that a column of them that inflates more is none; below the size it does no harm.
_MOST_INFLATION, _HARMLESS_BYTES = 50, 2**26
# The longest text of a footer in bytes, and the most entries of its lists.
_FOOTER_LIMITS = {"thrift_string_size_limit": 2**24, "thrift_container_size_limit": 10**6}


class ParquetFile(Container):
    """One Parquet file."""

    KIND, ENDINGS = "Parquet", (b".parquet",)

    def __init__(self, root: Root, entry: Entry, image_column: str, label_column: str) -> None:
        super().__init__(root, entry, image_column, label_column)
        self._columns: Columns
        self._reader: _Reader | None = None

    def has_images(self) -> bool:
        """See `Container`."""
        with self._file(in_order=False) as file:
            return has_images(file.schema_arrow, self.image_column)

    def rows(self) -> Rows:
        """One pass over the small columns."""
        with self._file(in_order=False) as file, self.readable():
            self._columns = find_columns(self.entry.path, file.schema_arrow, self.image_column, self.label_column)
            _refuse_bomb(self.name, self.entry.size, file.metadata)
            # One leaf of the struct: the images themselves are not read.
            table, count = file.read(columns=self._columns.leaves), file.metadata.num_rows
            return self._columns.rows(table, count=count, without_image=_nulls(file.metadata, self._columns.image))

    def read(self, row: int) -> Encoded:
        """See `Container`."""
        with self.readable():
            if self._reader is None:
                self._reader = _Reader(self._file(in_order=True), self._columns.of_image)
            return self._columns.encoded(self._reader.row(row))

    def close(self) -> None:
        """See `Container`."""
        self._reader = None

    def _file(self, *, in_order: bool) -> pq.ParquetFile:
        """in_order: for reading images from front to back; else for some columns, and a store sends only these."""
        with self.readable():
            # Opened here, because Arrow's own opening takes no name that is not UTF-8.
            file = self.root.open(self.entry.path, ahead=AHEAD_BYTES if in_order else 0)
            return pq.ParquetFile(file, pre_buffer=not in_order, **_FOOTER_LIMITS)


class _Reader:
    """Rows of one file, read forward in small batches; a step back starts at the row group again."""

    def __init__(self, file: pq.ParquetFile, columns: list[str]) -> None:
        self._file, self._columns = file, columns
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


def _refuse_bomb(name: str, size: int, metadata: pq.FileMetaData) -> None:
    """ValueError where the footer of a small file claims more than images can hold; no page is read before that.

    A footer that claims too little is not detected.
    """
    if metadata.num_rows > size:
        raise ValueError(f"{name}: {metadata.num_rows} rows in {size} bytes; no row of it can be an image")
    for row_group, column in _column_chunks(metadata):
        packed, whole = column.total_compressed_size, column.total_uncompressed_size
        if packed > size or whole > max(_HARMLESS_BYTES, _MOST_INFLATION * packed):
            raise ValueError(
                f"{name}: {column.path_in_schema} of row group {row_group} inflates from {packed} to {whole} bytes in "
                f"a file of {size}; images inflate less than {_MOST_INFLATION} times; leave the file out or fetch it again"
            )


def _nulls(metadata: pq.FileMetaData, image: str) -> int:
    """Number of rows without bytes, as the footer states it; 0 where it does not."""
    leaves = [column for _, column in _column_chunks(metadata) if column.path_in_schema in (image, f"{image}.bytes")]
    statistics = [column.statistics for column in leaves if column.is_stats_set]
    return sum(one.null_count for one in statistics if one.has_null_count)


def _column_chunks(metadata: pq.FileMetaData) -> Iterator[tuple[int, pq.ColumnChunkMetaData]]:
    """(number of the row group, column chunk) of a whole file."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        yield from ((number, group.column(place)) for place in range(group.num_columns))
