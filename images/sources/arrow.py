"""Arrow files, as `save_to_disk` of Hugging Face datasets writes them: mapped into memory, so that only rows in use cost.

Streams and files of Arrow IPC without compression, which a few bytes could inflate without end.
"""

import mmap
import struct

import pyarrow as pa
import pyarrow.compute as pc

from images.sources.columns import find_columns, has_images
from images.sources.containers import Container, Rows
from images.sources.items import Encoded
from images.sources.tables import Columns
from images.sources.tree import Entry, Root
from shards.urls import is_url

# A file is a stream behind its magic word, which ends it too.
_MAGIC, _STREAM_AT = b"ARROW1", 8
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
# Of a message's header in Arrow's Message.fbs.
_DICTIONARY, _RECORDS = 2, 3


class ArrowFile(Container):
    """One Arrow file of this machine."""

    KIND, ENDINGS = "Arrow", (b".arrow", b".feather")

    def __init__(self, root: Root, entry: Entry, image_column: str, label_column: str) -> None:
        if is_url(root.name):
            raise ValueError(
                f"data.path: Arrow files are read on this machine alone; copy {root.name} here, or store Parquet there "
                "(to_parquet of datasets)"
            )
        super().__init__(root, entry, image_column, label_column)
        self._columns: Columns
        self._table: pa.Table | None = None

    def has_images(self) -> bool:
        """See `Container`."""
        with self.readable():
            return has_images(pa.ipc.open_stream(self._stream()).schema, self.image_column)

    def rows(self) -> Rows:
        """Images are mapped and not read."""
        table = self._mapped()
        image = table[self._columns.image]
        data = pc.struct_field(image, "bytes") if pa.types.is_struct(image.type) else image
        with self.readable():
            return self._columns.rows(table, count=table.num_rows, without_image=data.null_count)

    def read(self, row: int) -> Encoded:
        """See `Container`."""
        if self._table is None:
            self._table = self._mapped()
        return self._columns.encoded({name: self._table[name][row].as_py() for name in self._columns.of_image})

    def close(self) -> None:
        """See `Container`."""
        self._table = None

    def _mapped(self) -> pa.Table:
        """The columns in use, in the file's own pages."""
        stream = self._stream()
        with self.readable():
            schema = pa.ipc.open_stream(stream).schema
            self._columns = find_columns(self.entry.path, schema, self.image_column, self.label_column)
            if any(map(_is_compressed, pa.ipc.MessageReader.open_stream(stream))):
                raise ValueError(
                    f"{self.name}: compressed Arrow data is not read; write it as Parquet, or uncompressed"
                )
            used = {*self._columns.of_image, *self._columns.beside_image}
            options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in used])
            table = pa.ipc.open_stream(stream, options=options).read_all()
            # Its offsets may point anywhere.
            table.validate(full=True)
            return table

    def _stream(self) -> pa.Buffer:
        """The mapped messages."""
        with self.readable():
            if not self.entry.size:
                raise OSError("empty")
            with self.root.open(self.entry.path) as file:
                buffer = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            is_file = buffer[: len(_MAGIC)].to_pybytes() == _MAGIC
            end = _MAGIC if is_file else _END_OF_STREAM
            if buffer[-len(end) :].to_pybytes() != end:
                raise OSError("cut off before its end")
            return buffer[_STREAM_AT:] if is_file else buffer


def _is_compressed(message: pa.Message) -> bool:
    """Whether a message, verified by pyarrow, has compressed buffers: which pyarrow does not say before it inflates them."""
    data = message.metadata.to_pybytes()
    root = _table_at(data, 0)
    kind = _field(data, root, 1)
    header = _table_at(data, _field(data, root, 2))
    if data[kind] == _DICTIONARY:
        header = _table_at(data, _field(data, header, 1))
    elif data[kind] != _RECORDS:
        return False
    return _field(data, header, 3) != 0


def _table_at(data: bytes, place: int) -> int:
    """Place of the flatbuffer table that the offset at `place` points at."""
    return place + int(struct.unpack_from("<I", data, place)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Place of a field of a flatbuffer table, 0 where the table lacks it."""
    fields = table - struct.unpack_from("<i", data, table)[0]
    at = 4 + 2 * number
    (size,) = struct.unpack_from("<H", data, fields)
    offset = struct.unpack_from("<H", data, fields + at)[0] if at < size else 0
    return table + offset if offset else 0
