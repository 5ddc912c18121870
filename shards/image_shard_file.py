"""One image shard while it is written: a Parquet file in small row groups, whose images are found without its footer."""

import json
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards.files import whole_file
from shards.row_index import Group

# Reading one image reads its row group, so a group is small in rows and in bytes.
GROUP_ROWS, GROUP_BYTES = 64, 2**19
# Of the length that stands before each value in a plain page of binary values.
LENGTH_BYTES = 4


def image_schema(classes: list[str], *, has_masks: bool) -> pa.Schema:
    """Arrow schema of the shards, with the metadata by which `datasets` knows images and class names."""
    encoded = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": encoded, "label": pa.int64(), "id": pa.uint64(), "sha256": pa.binary(32)}
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": classes},
        "id": {"_type": "Value", "dtype": "uint64"},
        "sha256": {"_type": "Value", "dtype": "binary"},
    }
    if has_masks:
        columns["mask"], features["mask"] = encoded, {"_type": "Image"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(columns.items()), metadata=metadata)


class ShardFile:
    """Writes one shard; holds the rows of one row group at most. bytes: of the images and masks so far."""

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
        """Path of the file, and its row groups."""
        self._flush()
        self._stack.close()
        footer = pq.read_metadata(self.path)
        with open(self.path, "rb") as file:
            groups = [_placed(group, footer.row_group(at).column(0), file) for at, group in enumerate(self._groups)]
        return self.path, groups

    def abandon(self, *error: Any) -> None:
        """Leave no file."""
        self._stack.__exit__(*error)

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._group, schema=self.schema))
        size = checksum = 0
        for row in self._group:
            image = row["image"]["bytes"]
            size += LENGTH_BYTES + len(image)
            checksum = zlib.crc32(image, zlib.crc32(len(image).to_bytes(LENGTH_BYTES, "little"), checksum))
        self._groups.append(Group(len(self._group), 0, size, checksum))
        self._group, self._group_bytes = [], 0


def _placed(group: Group, images: pq.ColumnChunkMetaData, file: IO[bytes]) -> Group:
    """A row group with the start of its images: they end where their column does, or this is no file of ours."""
    start = images.data_page_offset + images.total_compressed_size - group.bytes
    file.seek(start)
    assert zlib.crc32(file.read(group.bytes)) == group.crc32, f"{images.path_in_schema} is not one plain page"
    return group._replace(start=start)
