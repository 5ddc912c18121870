"""Writing a folder of encoded images in Parquet shards: small row groups, an index of their rows, and the manifest last.

The folder appears whole or not at all. `shards.image_shards` reads it.
"""

import zlib
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.files import whole_file, whole_folder
from shards.parquet_files import keep
from shards.row_index import GROUPS, INDEX, LENGTH_BYTES, SPLITS, Group, write_index
from shards.seals import MANIFEST, write_sealed

# Of the manifest, the shards and the index together; readers refuse another one.
VERSION = 3
# Reading one image reads its row group, so a group is small in rows and in bytes.
GROUP_ROWS, GROUP_BYTES = 64, 2**19
# Encoded bytes of a split's first shards, and of later ones as a share of all before them. New images change the last shard,
# so they cost a fifth of a split at most, and the number of shards grows with the logarithm of its size.
FIRST_BYTES, GROWTH = 2**18, 1 / 4
# What is kept of every row until the end; content: 32 bytes that describe it.
KEY = np.dtype([("id", ">u8"), ("content", "u1", 32), ("label", ">i8")])
# Of an image that is stored as its file was.
ENCODED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class ShardWriter(ABC):
    """Writes a folder of shards; it appears when the `with` block ends without an error.

    schema: its first column is `ENCODED`.
    shard_bytes: most encoded bytes of a shard with more than one image; where a split holds little, its shards are smaller
    (see `size_limit`). A shard's size follows from the rows before it, so appending rows to the same rows leaves every full
    shard as it was, byte for byte.
    store: URL prefix of the shards, or empty: they stay in the folder. A shard is sent as soon as it is full, so the disk
    holds one at a time.
    """

    def __init__(self, folder: str | Path, schema: pa.Schema, *, shard_bytes: int, store: str = "") -> None:
        self.schema, self.shard_bytes, self.store = schema, shard_bytes, store
        self._target = whole_folder(folder)
        self._shards: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self._keys: dict[str, bytearray] = {split: bytearray() for split in SPLITS}
        self._groups: dict[str, bytearray] = {split: bytearray() for split in SPLITS}
        # Encoded bytes of the closed shards of the split.
        self._closed_bytes = 0
        self._open: _ShardFile | None = None
        self._split = ""

    def __enter__(self) -> Self:
        self.folder = self._target.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            with ExitStack() as stack:
                # On a full disk, closing the open file fails too; the folder goes all the same.
                stack.callback(self._target.__exit__, *error)
                if self._open is not None:
                    self._open.abandon(*error)
            return
        with ExitStack() as stack:
            # A failure from here on leaves no folder either.
            stack.push(self._target)
            self._close_shard()
            self._finish()

    @abstractmethod
    def _manifest(self, keys: dict[str, np.ndarray]) -> dict[str, Any]:
        """What the manifest holds besides the shards. keys: split -> (N,) of dtype `KEY`, in file order."""

    def _labels(self, rows: np.ndarray) -> np.ndarray:
        """Label (N,) of each row for the index."""
        return rows["label"]

    def _append(self, split: str, row: dict[str, Any], *, content: bytes, label: int) -> None:
        """Append one encoded image and its `KEY`. All rows of a split must follow each other."""
        size = len(row[self.schema.names[0]]["bytes"])
        limit = size_limit(self._closed_bytes, self.shard_bytes)
        if split != self._split or (self._open is not None and self._open.bytes + size > limit):
            assert split == self._split or not self._shards[split], f"rows of {split} are not contiguous"
            self._close_shard()
            if split != self._split:
                self._split, self._closed_bytes = split, 0
        if self._open is None:
            name = f"{split}-{len(self._shards[split]):05d}.parquet"
            self._open = _ShardFile(self.folder / name, self.schema)
        self._open.add(row, size)
        self._keys[split] += row["id"].to_bytes(8, "big") + content + label.to_bytes(8, "big", signed=True)

    def _close_shard(self) -> None:
        if self._open is not None:
            path, groups = self._open.close()
            self._shards[self._split].append({"rows": sum(group.rows for group in groups), **keep(path, self.store)})
            self._groups[self._split] += np.array(groups, dtype=GROUPS).tobytes()
            self._closed_bytes += self._open.bytes
            self._open = None

    def _finish(self) -> None:
        keys = {split: np.frombuffer(rows, dtype=KEY) for split, rows in self._keys.items()}
        index = write_index(
            self.folder / INDEX,
            ids={split: rows["id"].astype(np.uint64) for split, rows in keys.items()},
            labels={split: self._labels(rows).astype(np.int64) for split, rows in keys.items()},
            groups={split: np.frombuffer(groups, dtype=GROUPS) for split, groups in self._groups.items()},
        )
        splits = {
            split: {"shards": shards, "rows": sum(shard["rows"] for shard in shards)}
            for split, shards in self._shards.items()
        }
        write_sealed(
            self.folder / MANIFEST, {"version": VERSION, "splits": splits, "index": index, **self._manifest(keys)}
        )


def size_limit(before: int, most: int) -> int:
    """Most encoded bytes of the shard behind `before` bytes of its split; `most` of any shard."""
    return min(most, max(FIRST_BYTES, int(GROWTH * before)))


class _ShardFile:
    """Writes one shard and holds at most one row group. bytes: encoded images added so far."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.bytes = self._group_bytes = 0
        self._group: list[dict[str, Any]] = []
        self._groups: list[Group] = []
        with ExitStack() as stack:
            file = stack.enter_context(whole_file(path))
            # Encoded images do not compress; without compression and dictionaries one row is found without decoding.
            writer = pq.ParquetWriter(
                file,
                schema,
                compression="NONE",
                use_dictionary=False,
                write_statistics=["label", "id"],
                write_page_checksum=True,
            )
            # Where closing it fails, its destructor would try again, on the closed file.
            stack.callback(setattr, writer, "is_open", False)
            self._writer = stack.enter_context(writer)
            self._stack = stack.pop_all()

    def add(self, row: dict[str, Any], size: int) -> None:
        """Append a row of `size` encoded bytes."""
        if self._group and (len(self._group) == GROUP_ROWS or self._group_bytes + size > GROUP_BYTES):
            self._flush()
        self._group.append(row)
        self._group_bytes += size
        self.bytes += size

    def close(self) -> tuple[Path, list[Group]]:
        """Finish the file; its path and row groups. Where that fails, what was written is deleted."""
        with self._stack:
            self._flush()
        footer = pq.read_metadata(self.path)
        with open(self.path, "rb") as file:
            groups = [_placed(group, footer.row_group(at).column(0), file) for at, group in enumerate(self._groups)]
        return self.path, groups

    def abandon(self, *error: Any) -> None:
        """Delete what was written."""
        self._stack.__exit__(*error)

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._group, schema=self.schema))
        size = checksum = 0
        for row in self._group:
            image = row[self.schema.names[0]]["bytes"]
            size += LENGTH_BYTES + len(image)
            checksum = zlib.crc32(image, zlib.crc32(len(image).to_bytes(LENGTH_BYTES, "little"), checksum))
        self._groups.append(Group(len(self._group), 0, size, checksum))
        self._group, self._group_bytes = [], 0


def _placed(group: Group, images: pq.ColumnChunkMetaData, file: IO[bytes]) -> Group:
    """The row group with the start of its images, which end where their column chunk ends."""
    start = images.data_page_offset + images.total_compressed_size - group.bytes
    file.seek(start)
    assert zlib.crc32(file.read(group.bytes)) == group.crc32, f"{images.path_in_schema} is not one plain page"
    return group._replace(start=start)
