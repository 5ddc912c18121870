"""Parquet shards of encoded images in the Hugging Face convention, and a manifest that is written last.

`<split>-NNNNN.parquet` with the columns image {bytes, path}, label, id, sha256 and, where the data has part labels,
mask {bytes, path}. Bytes are those of the source files. pandas, pyarrow, duckdb and `datasets` read them as they are.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import values_of
from pipeline.files import is_lack_of_memory, sha256_of, whole_file, whole_folder
from pipeline.seals import MANIFEST, read_sealed, write_sealed

VERSION = 1
SPLITS = ("train", "val", "test")
# Reading one image reads its row group, so a group is small in rows and in bytes.
GROUP_ROWS, GROUP_BYTES = 64, 2**19
HELD_GROUPS = 16
# `ImageShards` has a method of this name.
Encoded = bytes


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


class ImageShardWriter:
    """Writes a folder of image shards; it appears when the `with` block ends without an error.

    A shard closes before the image that would take it past `shard_bytes` of encoded bytes, so its rows follow from
    those before it alone: what is appended to the same rows leaves every full shard as it was, byte for byte.
    """

    def __init__(self, folder: str | Path, *, classes: list[str], has_masks: bool, shard_bytes: int) -> None:
        self.classes, self.has_masks, self.shard_bytes = classes, has_masks, shard_bytes
        self.schema = image_schema(classes, has_masks=has_masks)
        self._target = whole_folder(folder)
        self._shards: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self._keys: dict[str, bytearray] = {split: bytearray() for split in SPLITS}
        self._open: _ShardFile | None = None
        self._split = ""
        self._num_part_labels: int | None = None

    def __enter__(self) -> "ImageShardWriter":
        self.folder = self._target.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._close_shard()
            write_sealed(self.folder / MANIFEST, self._manifest())
        elif self._open is not None:
            self._open.abandon(*error)
        self._target.__exit__(*error)

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
        """Append one image; the rows of a split come one after the other.

        max_part_label: largest label of the mask, -1 where it has none.
        """
        assert 0 <= label < len(self.classes) and (mask is None or self.has_masks), (label, self.has_masks)
        size = len(image) + len(mask or b"")
        if split != self._split or (self._open is not None and self._open.bytes + size > self.shard_bytes):
            assert split == self._split or not self._shards[split], f"rows of {split} are not contiguous"
            self._close_shard()
            self._split = split
        if self._open is None:
            name = f"{split}-{len(self._shards[split]):05d}.parquet"
            self._open = _ShardFile(self.folder / name, self.schema)
        row = {"image": {"bytes": image, "path": path}, "label": label, "id": image_id, "sha256": sha256}
        if self.has_masks:
            row["mask"] = None if mask is None else {"bytes": mask, "path": mask_path}
        if mask is not None:
            self._num_part_labels = max(self._num_part_labels or 0, max_part_label + 1)
        self._open.add(row, size)
        self._keys[split] += image_id.to_bytes(8, "big") + sha256 + label.to_bytes(8, "big")

    def _close_shard(self) -> None:
        if self._open is not None:
            path, rows = self._open.close()
            entry = {"file": path.name, "rows": rows, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
            self._shards[self._split].append({**entry, "footer": _footer_digest(path)})
            self._open = None

    def _manifest(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "classes": self.classes,
            "splits": {
                split: {"shards": shards, "rows": sum(shard["rows"] for shard in shards)}
                for split, shards in self._shards.items()
            },
            "has_masks": self.has_masks,
            "num_part_labels": self._num_part_labels,
            "data_digest": self._digest(),
        }

    def _digest(self) -> str:
        """SHA-256 over (split, id, sha256, label) by split and ascending id: the data, however it is sharded."""
        digest = hashlib.sha256()
        for split in sorted(self._keys):
            rows = np.frombuffer(self._keys[split], dtype=[("id", ">u8"), ("rest", "V40")])
            digest.update(split.encode() + b"\n")
            digest.update(rows[np.argsort(rows["id"], kind="stable")].tobytes())
        return digest.hexdigest()


class _ShardFile:
    """One shard while it is written: holds the rows of one row group at most."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.rows = self.bytes = self._group_bytes = 0
        self._group: list[dict[str, Any]] = []
        self._stack = ExitStack()
        file = self._stack.enter_context(whole_file(path))
        # Encoded images do not compress; without compression and dictionaries one row is found without decoding.
        writer = pq.ParquetWriter(
            file,
            schema,
            compression="NONE",
            use_dictionary=False,
            write_statistics=["label", "id"],
            write_page_checksum=True,
        )
        self._writer = self._stack.enter_context(writer)

    def add(self, row: dict[str, Any], size: int) -> None:
        if self._group and (len(self._group) == GROUP_ROWS or self._group_bytes + size > GROUP_BYTES):
            self._flush()
        self._group.append(row)
        self._group_bytes += size
        self.bytes += size

    def close(self) -> tuple[Path, int]:
        self._flush()
        self._stack.close()
        return self.path, self.rows

    def abandon(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._group, schema=self.schema))
        self.rows += len(self._group)
        self._group, self._group_bytes = [], 0


class Shard(NamedTuple):
    """One file of a folder of image shards, as its manifest states it."""

    path: Path
    rows: int
    sha256: str


def list_shards(folder: str | Path) -> list[Shard]:
    """Every shard of every split, in the order in which they were written; a missing or truncated one is a ValueError.

    Costs nothing an image: of a shard no more than its footer is read.
    """
    manifest = _read_manifest(Path(folder))
    return [
        Shard(_present(Path(folder), shard), shard["rows"], shard["sha256"])
        for split in SPLITS
        for shard in manifest["splits"][split]["shards"]
    ]


def read_shard(path: str | Path, batch_size: int) -> Iterator[tuple[np.ndarray, list[Encoded]]]:
    """Ids (B,) uint64 and B encoded images of one shard, in the order of the file; only the last batch is smaller.

    Holds one row group and one batch. A damaged file is a ValueError that names it.
    """
    waiting: list[tuple[int, Encoded]] = []
    try:
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=["id", "image"], use_threads=False)
                images = _fields(table["image"])["bytes"].to_pylist()
                waiting.extend(zip(table["id"].to_pylist(), images, strict=True))
                while len(waiting) >= batch_size:
                    yield _batch(waiting[:batch_size])
                    del waiting[:batch_size]
    except (OSError, pa.ArrowException) as error:
        raise _damaged(Path(path), error) from None
    if waiting:
        yield _batch(waiting)


class ImageShards:
    """One split of a folder of image shards. Rows are numbered by ascending id, whatever shard they lie in.

    So nothing that is computed from row numbers depends on the order in which the images were prepared. `storage` lists
    the row numbers in the order of the files, for a pass that reads each byte once; `group_sizes` are those of its row
    groups, the least that is read at a time.

    Opening checks the presence and size of every shard of the split; a missing, truncated or damaged one is a
    ValueError that names it. Files are memory-mapped, and threads may read at once.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        self.manifest: dict[str, Any] = _read_manifest(self.folder)
        if split not in self.manifest["splits"]:
            raise ValueError(f"{self.folder}: no split {split}; there are {', '.join(self.manifest['splits'])}")
        self.classes: list[str] = self.manifest["classes"]
        self.has_masks: bool = self.manifest["has_masks"]
        # How many row groups are kept: as many as threads read at once, or as a shuffling reader comes back to.
        self.held_groups = HELD_GROUPS
        self._held: OrderedDict[tuple[int, int], dict[str, dict[str, pa.Array]]] = OrderedDict()
        self._files: dict[int, pq.ParquetFile] = {}
        self._lock = threading.Lock()
        self._paths: list[Path] = []
        self._footers: list[pq.FileMetaData] = []
        ids, labels, places, counts = [], [], [], []
        for number, shard in enumerate(self.manifest["splits"][split]["shards"]):
            path = _present(self.folder, shard)
            table, footer = _index_of(path)
            ids.append(values_of(table["id"]))
            labels.append(values_of(table["label"]))
            sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
            counts.extend(sizes)
            rows = np.concatenate([np.arange(size) for size in sizes])
            groups = np.repeat(np.arange(len(sizes)), sizes)
            places.append(np.stack([np.full(len(rows), number), groups, rows], axis=1))
            self._paths.append(path)
            self._footers.append(footer)
        all_ids = np.concatenate([np.empty(0, np.uint64), *ids])
        order = np.argsort(all_ids, kind="stable")
        self.ids: np.ndarray = all_ids[order]
        self.labels: np.ndarray = np.concatenate([np.empty(0, np.int64), *labels])[order]
        self.group_sizes: np.ndarray = np.array(counts, dtype=np.int64)
        self.storage: np.ndarray = np.argsort(order, kind="stable")
        self._places = np.concatenate([np.empty((0, 3), np.int64), *places])[order]

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[type["ImageShards"], tuple[Path, str]]:
        return ImageShards, (self.folder, self.split)

    def bytes(self, row: int) -> Encoded:
        """The encoded image of one row."""
        return self._value(row, "image", "bytes")

    def mask_bytes(self, row: int) -> Encoded | None:
        """The encoded mask of one row; None where it has none."""
        return self._value(row, "mask", "bytes") if self.has_masks else None

    def path(self, row: int) -> str:
        """Path of the image in its source, percent-encoded where it is not UTF-8."""
        return self._value(row, "image", "path")

    def iter_batches(self, size: int) -> Iterator[tuple[np.ndarray, list[Encoded]]]:
        """Row numbers (at most `size`) and their encoded images, every row once, in the order of the files."""
        for start in range(0, len(self), size):
            rows = self.storage[start : start + size]
            yield rows, [self.bytes(row) for row in rows]

    def _value(self, row: int, column: str, field: str) -> Any:
        shard, group, place = self._places[row]
        return self._group(int(shard), int(group))[column][field][int(place)].as_py()

    def _group(self, shard: int, group: int) -> dict[str, dict[str, pa.Array]]:
        """The columns of one row group; those that were used last are kept."""
        with self._lock:
            held = self._held.get((shard, group))
            if held is None:
                held = self._held[shard, group] = self._read(shard, group)
            self._held.move_to_end((shard, group))
            while len(self._held) > self.held_groups:
                self._held.popitem(last=False)
            return held

    def _read(self, shard: int, group: int) -> dict[str, dict[str, pa.Array]]:
        path = self._paths[shard]
        columns = ["image", "mask"] if self.has_masks else ["image"]
        try:
            if shard not in self._files:
                self._files[shard] = pq.ParquetFile(
                    path,
                    metadata=self._footers[shard],
                    memory_map=True,
                    pre_buffer=False,
                    page_checksum_verification=True,
                )
            table = self._files[shard].read_row_group(group, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from None
        return {name: _fields(table[name].combine_chunks()) for name in columns}


_MEND = "delete the folder and run `dvc repro`"


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_sealed(folder / MANIFEST)
    if manifest.get("version") != VERSION:
        found = manifest.get("version")
        raise ValueError(f"{folder}: shards of version {found}, expected {VERSION}; run `dvc repro` again")
    return manifest


def _present(folder: Path, shard: dict[str, Any]) -> Path:
    path = folder / shard["file"]
    size = path.stat().st_size if path.is_file() else None
    if size != shard["bytes"]:
        raise ValueError(f"{path}: {size} bytes, the manifest says {shard['bytes']}; {_MEND}")
    if _footer_digest(path) != shard["footer"]:
        raise ValueError(f"{path}: damaged: its footer is not the one that was written; {_MEND}")
    return path


def _footer_digest(path: Path) -> str:
    """SHA-256 of what stands behind the rows and says where they are and of what type: no page checksum covers it."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length))
        return hashlib.sha256(file.read()).hexdigest()


def _batch(rows: list[tuple[int, Encoded]]) -> tuple[np.ndarray, list[Encoded]]:
    return np.array([image_id for image_id, _ in rows], dtype=np.uint64), [image for _, image in rows]


def _damaged(path: Path, error: Exception) -> Exception:
    if is_lack_of_memory(error):
        return error
    return ValueError(f"{path}: damaged ({' '.join(str(error).split())}); {_MEND}")


def _index_of(path: Path) -> tuple[pa.Table, pq.FileMetaData]:
    try:
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            return file.read(columns=["id", "label"], use_threads=False), file.metadata
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _fields(column: pa.ChunkedArray | pa.StructArray) -> dict[str, pa.Array]:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    # `flatten` carries the nulls of the struct over to its fields, `field` does not.
    return dict(zip(("bytes", "path"), array.flatten(), strict=True))
