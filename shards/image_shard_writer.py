"""Writing a folder of image shards: Parquet files in small row groups, an index of their rows, and the manifest last.

The folder appears whole or not at all; see `shards.image_shards` for what it holds.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.files import whole_file, whole_folder
from shards.parquet_files import keep
from shards.row_index import GROUPS, INDEX, LENGTH_BYTES, SPLITS, Group, write_index
from shards.seals import MANIFEST, write_sealed

# Of the manifest, the shards and the index together; readers refuse another one.
VERSION = 2
# Reading one image reads its row group, so a group is small in rows and in bytes.
GROUP_ROWS, GROUP_BYTES = 64, 2**19
_KEY = np.dtype([("id", ">u8"), ("sha256", "V32"), ("label", ">i8")])


class ImageShardWriter:
    """Writes a folder of image shards; it appears when the `with` block ends without an error.

    shard_bytes: a shard closes before the image that would take it past so many encoded bytes. So appending rows to the
    same rows leaves every full shard as it was, byte for byte.
    store: URL prefix of the shards, or empty: they stay in the folder. A shard is sent as soon as it is full, so the disk
    holds one at a time.
    """

    def __init__(
        self, folder: str | Path, *, classes: list[str], has_masks: bool, shard_bytes: int, store: str = ""
    ) -> None:
        self.classes, self.has_masks, self.shard_bytes, self.store = classes, has_masks, shard_bytes, store
        self.schema = image_schema(classes, has_masks=has_masks)
        self._target = whole_folder(folder)
        self._shards: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self._keys: dict[str, bytearray] = {split: bytearray() for split in SPLITS}
        self._groups: dict[str, bytearray] = {split: bytearray() for split in SPLITS}
        self._open: ShardFile | None = None
        self._split = ""
        self._num_part_labels: int | None = None

    def __enter__(self) -> "ImageShardWriter":
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
            write_sealed(self.folder / MANIFEST, self._manifest())

    def add(
        self,
        split: str,
        *,
        image_id: int,
        label: int,
        sha256: bytes,
        image: bytes,
        path: str,
        mask: bytes | None = None,
        mask_path: str | None = None,
        max_part_label: int = -1,
    ) -> None:
        """Append one image. All rows of a split must follow each other.

        image, mask: encoded bytes. max_part_label: largest label of the mask, -1 where it has none.
        """
        assert 0 <= label < len(self.classes) and (mask is None or self.has_masks), (label, self.has_masks)
        size = len(image) + len(mask or b"")
        if split != self._split or (self._open is not None and self._open.bytes + size > self.shard_bytes):
            assert split == self._split or not self._shards[split], f"rows of {split} are not contiguous"
            self._close_shard()
            self._split = split
        if self._open is None:
            name = f"{split}-{len(self._shards[split]):05d}.parquet"
            self._open = ShardFile(self.folder / name, self.schema)
        row = {"image": {"bytes": image, "path": path}, "label": label, "id": image_id, "sha256": sha256}
        if self.has_masks:
            row["mask"] = None if mask is None else {"bytes": mask, "path": mask_path}
        if mask is not None:
            self._num_part_labels = max(self._num_part_labels or 0, max_part_label + 1)
        self._open.add(row, size)
        self._keys[split] += image_id.to_bytes(8, "big") + sha256 + label.to_bytes(8, "big")

    def _close_shard(self) -> None:
        if self._open is not None:
            path, groups = self._open.close()
            self._shards[self._split].append({"rows": sum(group.rows for group in groups), **keep(path, self.store)})
            self._groups[self._split] += np.array(groups, dtype=GROUPS).tobytes()
            self._open = None

    def _manifest(self) -> dict[str, Any]:
        keys = {split: np.frombuffer(self._keys[split], dtype=_KEY) for split in SPLITS}
        index = write_index(
            self.folder / INDEX,
            ids={split: rows["id"].astype(np.uint64) for split, rows in keys.items()},
            labels={split: rows["label"].astype(np.int64) for split, rows in keys.items()},
            groups={split: np.frombuffer(groups, dtype=GROUPS) for split, groups in self._groups.items()},
        )
        return {
            "version": VERSION,
            "classes": self.classes,
            "splits": {
                split: {"shards": shards, "rows": sum(shard["rows"] for shard in shards)}
                for split, shards in self._shards.items()
            },
            "index": index,
            "has_masks": self.has_masks,
            "num_part_labels": self._num_part_labels,
            "data_digest": _digest(keys),
        }


def _digest(keys: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over (split, id, sha256, label) by split and ascending id: the same however the data is sharded."""
    digest = hashlib.sha256()
    for split in sorted(keys):
        rows = keys[split]
        digest.update(split.encode() + b"\n")
        digest.update(rows[np.argsort(rows["id"], kind="stable")].tobytes())
    return digest.hexdigest()


def image_schema(classes: list[str], *, has_masks: bool) -> pa.Schema:
    """Arrow schema of the shards, with the metadata that tells `datasets` which columns are images, and the class names."""
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
    """Writes one shard and holds at most one row group. bytes: encoded images and masks added so far."""

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
        """Finish the file; its path and row groups."""
        self._flush()
        self._stack.close()
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
            image = row["image"]["bytes"]
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
