"""Parquet shards of encoded images in the Hugging Face convention, and a manifest that is written last.

`<split>-NNNNN.parquet` with the columns image {bytes, path}, label, id, sha256 and, where the data has part labels,
mask {bytes, path}. Bytes are those of the source files. pandas, pyarrow, duckdb and `datasets` read them as they are.
With a store the same files lie there, each under its hash, and the folder holds the manifest and the index alone.
"""

import hashlib
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.files import whole_folder
from shards.image_shard_file import LENGTH_BYTES, ShardFile, image_schema
from shards.parquet_files import Place, faulty, find, keep, opened, read_range
from shards.row_index import GROUPS, INDEX, SPLITS, read_index, write_index
from shards.seals import MANIFEST, read_sealed, write_sealed

VERSION = 2
HELD_GROUPS = 16
# Footers that are kept for the paths and masks of images; one takes half a megabyte and more.
HELD_FOOTERS = 64
# What a pass through a shard reads at once: of a store few requests, and little that is held.
SPAN_BYTES = 8 * 2**20
# `ImageShards` has a method of this name.
Encoded = bytes
_KEY = np.dtype([("id", ">u8"), ("sha256", "V32"), ("label", ">i8")])


class ImageShardWriter:
    """Writes a folder of image shards; it appears when the `with` block ends without an error.

    A shard closes before the image that would take it past `shard_bytes` of encoded bytes, so its rows follow from
    those before it alone: what is appended to the same rows leaves every full shard as it was, byte for byte.
    store: the URL that those of the shards begin with, or empty. With one, each shard goes there as soon as it is full, and
    the disk holds one at a time.
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
                # A full disk keeps the open file from its end too.
                stack.callback(self._target.__exit__, *error)
                if self._open is not None:
                    self._open.abandon(*error)
            return
        with ExitStack() as stack:
            # What fails from here on leaves no folder either.
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
    """SHA-256 over (split, id, sha256, label) by split and ascending id: the data, however it is sharded."""
    digest = hashlib.sha256()
    for split in sorted(keys):
        rows = keys[split]
        digest.update(split.encode() + b"\n")
        digest.update(rows[np.argsort(rows["id"], kind="stable")].tobytes())
    return digest.hexdigest()


class Shard(NamedTuple):
    """One file of a folder of image shards, or one object of its store, as the manifest states it."""

    path: Place
    rows: int
    bytes: int
    sha256: str
    footer: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The last part of its path or URL."""
        return str(self.path).rpartition("/")[2]

    def open(self) -> AbstractContextManager[pq.ParquetFile]:
        """The file, to read."""
        return opened(self.path, size=self.bytes, footer=self.footer)


def list_shards(folder: str | Path, splits: Sequence[str] = SPLITS) -> list[Shard]:
    """Every shard of `splits`, in the order in which they were written; a missing or truncated one is a ValueError.

    Costs nothing an image: no shard is opened.
    """
    listed = _read_manifest(Path(folder))["splits"]
    return _shards(Path(folder), [shard for split in splits for shard in listed[split]["shards"]])


def _shards(folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[Shard]:
    return [
        Shard(place, entry["rows"], entry["bytes"], entry["sha256"], entry["footer"])
        for place, entry in zip(find(folder, entries), entries, strict=True)
    ]


def read_shard(shard: Shard, batch_size: int) -> Iterator[tuple[np.ndarray, list[Encoded]]]:
    """Ids (B,) uint64 and B encoded images of one shard, in the order of the file; only the last batch is smaller.

    Holds one batch and some mebibytes of neighbouring row groups, which are one request where the shard lies in a store. A
    damaged file is a ValueError that names it.
    """
    waiting: list[tuple[int, Encoded]] = []
    with shard.open() as file:
        for groups in _spans(file.metadata):
            table = file.read_row_groups(groups, columns=["id", "image"], use_threads=False)
            images = _fields(table["image"])["bytes"].to_pylist()
            waiting.extend(zip(table["id"].to_pylist(), images, strict=True))
            del table
            while len(waiting) >= batch_size:
                yield _batch(waiting[:batch_size])
                del waiting[:batch_size]
    if waiting:
        yield _batch(waiting)


class ImageShards:
    """One split of a folder of image shards. Rows are numbered by ascending id, whatever shard they lie in.

    So nothing that is computed from row numbers depends on the order in which the images were prepared, or on where the
    shards lie. `ids` (N,) uint64 and `labels` (N,) int64 go by row. `storage` (N,) int32 lists the row numbers in the order
    of the files, for a pass that reads each byte once; `group_sizes` are those of its row groups, the least that is read at
    a time. All but the labels are read-only, and mapped from the folder's index rather than held.

    Opening checks the presence and size of every shard of the split, and the index; a missing, truncated or damaged one is
    a ValueError that names it. Threads may read at once, and then as many row groups are under way; so may processes, each
    with its own `ImageShards`.
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
        self._held: OrderedDict[int, Future[list[Encoded]]] = OrderedDict()
        self._lock = threading.Lock()
        self._shards = _shards(self.folder, self.manifest["splits"][split]["shards"])
        self._index = index = read_index(self.folder, self.manifest["index"], split)
        self.ids, self.storage, self.group_sizes = index.ids, index.rows, index.group_rows
        self._group_ends = np.cumsum(self.group_sizes, dtype=np.int64)
        self._shard_ends = np.cumsum([shard.rows for shard in self._shards], dtype=np.int64)
        # The number of the first row group of each shard.
        self._first_groups = np.searchsorted(self._group_ends, [0, *self._shard_ends[:-1]], side="right")
        self._footer = lru_cache(maxsize=HELD_FOOTERS)(self._read_footer)
        self._described = lru_cache(maxsize=HELD_GROUPS)(self._read_described)

    @cached_property
    def labels(self) -> np.ndarray:
        """Class labels (N,) int64 by row."""
        # A copy: torch takes no memory that it may not write to.
        return self._index.labels.copy()

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[type["ImageShards"], tuple[Path, str]]:
        return ImageShards, (self.folder, self.split)

    def bytes(self, row: int) -> Encoded:
        """The encoded image of one row."""
        group, place = self._locate(row)
        return self._group(group)[place]

    def mask_bytes(self, row: int) -> Encoded | None:
        """The encoded mask of one row; None where it has none."""
        if not self.has_masks:
            return None
        group, place = self._locate(row)
        return self._described(group)["mask"]["bytes"][place].as_py()

    def path(self, row: int) -> str:
        """Path of the image in its source, percent-encoded where it is not UTF-8."""
        group, place = self._locate(row)
        return self._described(group)["image"]["path"][place].as_py()

    def smallest_ids(self, count: int) -> dict[Place, np.ndarray]:
        """Of each shard, by its path, the ids, ascending, that are among the `count` smallest of all. From the index alone."""
        rows = np.split(self.storage, self._shard_ends[:-1])
        return {
            shard.path: self.ids[np.sort(some[some < count])] for shard, some in zip(self._shards, rows, strict=True)
        }

    def iter_batches(self, size: int) -> Iterator[tuple[np.ndarray, list[Encoded]]]:
        """Row numbers (at most `size`) and their encoded images, every row once, in the order of the files."""
        for start in range(0, len(self), size):
            rows = self.storage[start : start + size]
            yield rows, [self.bytes(row) for row in rows]

    def _locate(self, row: int) -> tuple[int, int]:
        """Row group and place in it."""
        position = int(self._index.positions[row])
        group = int(np.searchsorted(self._group_ends, position, side="right"))
        return group, position - int(self._group_ends[group]) + int(self.group_sizes[group])

    def _group(self, group: int) -> list[Encoded]:
        """The images of one row group. Those that were used last are kept, and one that is being read is waited for."""
        with self._lock:
            held = self._held.get(group)
            is_mine = held is None
            if held is None:
                held = self._held[group] = Future()
            self._held.move_to_end(group)
            while len(self._held) > self.held_groups:
                self._held.popitem(last=False)
        if is_mine:
            try:
                held.set_result(self._read(group))
            except BaseException as error:
                # The next one tries again.
                with self._lock:
                    self._held.pop(group, None)
                held.set_exception(error)
        return held.result()

    def _read(self, number: int) -> list[Encoded]:
        """The images of a row group, from the bytes of their column: one request, and no footer."""
        shard, group = self._shard_of(number), self._index.group(number)
        data = read_range(self._shards[shard].path, group.start, group.bytes)
        if zlib.crc32(data) != group.crc32:
            raise faulty(self._shards[shard].path, f"damaged (row group {number - int(self._first_groups[shard])})")
        images, at = [], 0
        for _ in range(group.rows):
            start = at + LENGTH_BYTES
            at = start + int.from_bytes(data[at:start], "little")
            images.append(data[start:at])
        return images

    def _read_described(self, number: int) -> dict[str, dict[str, pa.Array]]:
        """What goes with the images of a row group: the fields of its struct columns without their bytes."""
        shard = self._shard_of(number)
        columns = ["image.path", "mask"] if self.has_masks else ["image.path"]
        place, size = self._shards[shard].path, self._shards[shard].bytes
        with opened(place, size=size, metadata=self._footer(shard)) as file:
            table = file.read_row_group(number - int(self._first_groups[shard]), columns=columns, use_threads=False)
        return {name: _fields(table[name].combine_chunks()) for name in table.column_names}

    def _shard_of(self, group: int) -> int:
        return int(np.searchsorted(self._first_groups, group, side="right")) - 1

    def _read_footer(self, shard: int) -> pq.FileMetaData:
        with self._shards[shard].open() as file:
            return file.metadata


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_sealed(folder / MANIFEST)
    if manifest.get("version") != VERSION:
        found = manifest.get("version")
        raise ValueError(f"{folder}: shards of version {found}, expected {VERSION}; run `dvc repro` again")
    return manifest


def _spans(footer: pq.FileMetaData) -> Iterator[list[int]]:
    """The row groups of a file, in order, as many at a time as are not more than `SPAN_BYTES` together."""
    span: list[int] = []
    size = 0
    for group in range(footer.num_row_groups):
        more = footer.row_group(group).total_byte_size
        if span and size + more > SPAN_BYTES:
            yield span
            span, size = [], 0
        span.append(group)
        size += more
    if span:
        yield span


def _batch(rows: list[tuple[int, Encoded]]) -> tuple[np.ndarray, list[Encoded]]:
    return np.array([image_id for image_id, _ in rows], dtype=np.uint64), [image for _, image in rows]


def _fields(column: pa.ChunkedArray | pa.StructArray) -> dict[str, pa.Array]:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    # `flatten` carries the nulls of the struct over to its fields, `field` does not.
    return dict(zip((field.name for field in whole.type), whole.flatten(), strict=True))
