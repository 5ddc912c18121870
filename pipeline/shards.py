"""Parquet shards of fixed-shape arrays by image id, and the cache of part labels on top of them.

A folder holds `shard-00000.parquet`, ... and a `manifest.json` that is written last: a folder without one is not
complete. Every row is an id (uint64) and one fixed-size binary value a column; the manifest and each file's metadata
hold the header that explains them. No pickle, and nothing but pyarrow is needed to read them.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import values_of
from pipeline.files import is_lack_of_memory, link_or_copy, sha256_of, whole_file, whole_folder
from pipeline.seals import MANIFEST, read_sealed, write_sealed

VERSION = 1
# Images a shard of masks, at some hundred bytes an image.
MASK_ROWS = 65536


def shard_name(number: int) -> str:
    """File name of a shard by its number in the folder."""
    return f"shard-{number:05d}.parquet"


class ArrayShardWriter:
    """Writes a folder of array shards; the folder appears when the `with` block ends without an error.

    `columns` maps a name to (NumPy dtype, shape of a row). Rows keep the order in which they are added; a shard closes
    at `shard_rows` rows, so the memory held is one shard's.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        columns: Mapping[str, tuple[str, tuple[int, ...]]],
        header: Mapping[str, Any],
        shard_rows: int,
    ) -> None:
        self.columns = {name: (np.dtype(kind), tuple(shape)) for name, (kind, shape) in columns.items()}
        described = {name: {"dtype": kind.str, "shape": list(shape)} for name, (kind, shape) in self.columns.items()}
        self.header = {**header, "columns": described}
        self.shard_rows = shard_rows
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if self._rows:
                self._write(self._rows)
            write_sealed(self.folder / MANIFEST, {"version": VERSION, "header": self.header, "shards": self._shards})
        self._target.__exit__(kind, error, trace)

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
                compression="zstd",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
                row_group_size=self.shard_rows,
            )
        self._shards.append({"file": path.name, "rows": count, "bytes": path.stat().st_size, "sha256": sha256_of(path)})
        self._waiting = [(ids[count:], {name: values[count:] for name, values in arrays.items()})]
        self._rows -= count


class ArrayShards:
    """Reader of a folder that `ArrayShardWriter` wrote.

    Opening checks the presence and the size of every shard; the first reading of one checks its hash. A missing, truncated
    or damaged file is a ValueError that names it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = read_sealed(self.folder / MANIFEST)
        if manifest.get("version") != VERSION:
            raise ValueError(
                f"{self.folder}: shards of version {manifest.get('version')}, expected {VERSION}; run `dvc repro` again"
            )
        self.header: dict[str, Any] = manifest["header"]
        self._shards: list[dict[str, Any]] = manifest["shards"]
        for shard in self._shards:
            path = self.folder / shard["file"]
            size = path.stat().st_size if path.is_file() else None
            if size != shard["bytes"]:
                raise ValueError(
                    f"{path}: {size} bytes, the manifest says {shard['bytes']}; delete the folder and run `dvc repro`"
                )
        self._load = lru_cache(maxsize=4)(self._read)
        self._sound: set[int] = set()

    def __len__(self) -> int:
        return sum(shard["rows"] for shard in self._shards)

    @property
    def num_shards(self) -> int:
        """Number of shard files."""
        return len(self._shards)

    def shard(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Ids (N,) uint64 and the columns (N, *shape) of one shard, read-only and without a copy a row."""
        table = self._load(index)
        arrays = {name: _view(table[name], spec) for name, spec in self.header["columns"].items()}
        return values_of(table["id"]), arrays

    @property
    def ids(self) -> np.ndarray:
        """All ids (N,) uint64 in the order of the shards."""
        return self._index[0]

    def rows(self, ids: np.ndarray, name: str) -> np.ndarray:
        """Column `name` at `ids` (N,), in their order: (N, *shape). KeyError names the first unknown id."""
        shards, places = self.locate(ids)
        spec = self.header["columns"][name]
        out = np.empty((len(ids), *spec["shape"]), dtype=spec["dtype"])
        for index in np.unique(shards):
            chosen = shards == index
            out[chosen] = self.shard(int(index))[1][name][places[chosen]]
        return out

    def locate(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shard index, row in the shard) of each id; KeyError names the first unknown one."""
        all_ids, order, starts = self._index
        ids = np.asarray(ids, dtype=np.uint64)
        if not len(all_ids):
            raise KeyError(f"id {int(ids[0])} is not in {self.folder}, which is empty")
        found = np.minimum(np.searchsorted(all_ids, ids, sorter=order), len(all_ids) - 1)
        rows = order[found]
        wrong = all_ids[rows] != ids
        if wrong.any():
            raise KeyError(f"id {int(ids[wrong][0])} is not in {self.folder}")
        shards = np.searchsorted(starts, rows, side="right") - 1
        return shards, rows - starts[shards]

    @property
    def _index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not hasattr(self, "_index_arrays"):
            parts = [values_of(self._read(i, ("id",))["id"]) for i in range(self.num_shards)]
            ids = np.concatenate(parts) if parts else np.empty(0, np.uint64)
            starts = np.cumsum([0, *(len(part) for part in parts)])[:-1]
            self._index_arrays = ids, np.argsort(ids, kind="stable"), starts
        return self._index_arrays

    def _read(self, index: int, columns: tuple[str, ...] | None = None) -> pa.Table:
        path = self.folder / self._shards[index]["file"]
        # Page checksums cover neither the headers of pages nor the footer, which say how their bytes are to be read.
        if index not in self._sound and sha256_of(path) != self._shards[index]["sha256"]:
            raise ValueError(
                f"{path}: damaged: its sha256 is not the manifest's; delete the folder and run `dvc repro`"
            )
        self._sound.add(index)
        try:
            with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
                return file.read(columns=None if columns is None else list(columns)).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            if is_lack_of_memory(error):
                raise
            raise ValueError(
                f"{path}: damaged ({' '.join(str(error).split())}); delete the folder and run `dvc repro`"
            ) from None


def is_intact(folder: str | Path) -> bool:
    """Whether a folder of array shards is there, complete, and byte for byte what was written.

    The hash vouches for each shard, and the shards' own metadata for the manifest.
    """
    try:
        manifest = read_sealed(Path(folder) / MANIFEST)
        return manifest["version"] == VERSION and all(
            _is_as_written(Path(folder) / shard["file"], shard, manifest["header"]) for shard in manifest["shards"]
        )
    except (ValueError, OSError, KeyError, TypeError):
        return False


def _is_as_written(path: Path, shard: Mapping[str, Any], header: Mapping[str, Any]) -> bool:
    if sha256_of(path) != shard["sha256"]:
        return False
    footer = pq.read_metadata(path)
    sizes = {"rows": footer.num_rows, "bytes": path.stat().st_size}
    return shard == {**shard, **sizes} and header == json.loads(footer.metadata[b"header"])


def join_shards(folders: Sequence[str | Path], target: str | Path) -> None:
    """Write `target` from the shards of `folders`, in that order: hard links, or copies where links are impossible.

    What is read as one folder afterwards has the bytes of one that was written in one go, shard for shard.
    """
    manifests = [read_sealed(Path(folder) / MANIFEST) for folder in folders]
    headers = [manifest["header"] for manifest in manifests]
    assert headers and all(header == headers[0] for header in headers), "shards of one kind are joined"
    shards: list[dict[str, Any]] = []
    with whole_folder(target) as place:
        for folder, manifest in zip(folders, manifests, strict=True):
            for shard in manifest["shards"]:
                name = shard_name(len(shards))
                link_or_copy(Path(folder) / shard["file"], place / name)
                shards.append({**shard, "file": name})
        write_sealed(place / MANIFEST, {"version": VERSION, "header": headers[0], "shards": shards})


class MaskCacheWriter:
    """Writes a mask cache: one label a patch, packed into as few bits as the labels need, first bit first.

    The header must hold: grid [h, w], patch_size (teacher pixels), num_parts K, background (id K, or null), kind
    (`labels`, or `ranks` with values 0..255), teacher and part_learner (digests). Used as a context manager.
    """

    def __init__(self, folder: str | Path, *, header: Mapping[str, Any], shard_rows: int = MASK_ROWS) -> None:
        values = 256 if header["kind"] == "ranks" else header["num_parts"] + (header["background"] is not None)
        self.bits = max(1, (values - 1).bit_length())
        self.values = values
        self.grid = tuple(header["grid"])
        size = (self.grid[0] * self.grid[1] * self.bits + 7) // 8
        columns = {"labels": ("|u1", (size,))}
        self._shards = ArrayShardWriter(
            folder, columns=columns, header={**header, "bits": self.bits}, shard_rows=shard_rows
        )

    def __enter__(self) -> "MaskCacheWriter":
        self._shards.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._shards.__exit__(*error)

    def add(self, ids: np.ndarray, labels: np.ndarray) -> None:
        """Append labels (N, h, w), values below 2**bits, for ids (N,)."""
        assert labels.shape[1:] == self.grid, (labels.shape, self.grid)
        assert not labels.size or int(labels.max()) < self.values, f"label {labels.max()} of {self.values}"
        bits = np.unpackbits(labels.astype(np.uint8).reshape(len(labels), -1, 1), axis=2)[:, :, 8 - self.bits :]
        self._shards.add(ids, labels=np.packbits(bits.reshape(len(labels), -1), axis=1))


class MaskCache:
    """Part labels by image id: `cache[id]` is (grid_h, grid_w) uint8; KeyError names an unknown id.

    Labels 0..K-1 are parts, K is background (where the header names one). `shard(i)` gives whole shards as arrays.
    """

    def __init__(self, folder: str | Path) -> None:
        self._shards = ArrayShards(folder)
        self.header = self._shards.header
        self._unpacked = lru_cache(maxsize=4)(self._unpack_shard)

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, image_id: int) -> np.ndarray:
        return self.rows(np.array([image_id], dtype=np.uint64))[0]

    @property
    def ids(self) -> np.ndarray:
        """All ids (N,) uint64."""
        return self._shards.ids

    @property
    def num_shards(self) -> int:
        """Number of shard files."""
        return self._shards.num_shards

    def shard(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids (N,) uint64 and labels (N, grid_h, grid_w) uint8 of one shard."""
        return self._unpacked(index)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Labels (N, grid_h, grid_w) uint8 at `ids` (N,), in their order."""
        return self._unpack(self._shards.rows(ids, "labels"))

    def _unpack_shard(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        ids, arrays = self._shards.shard(index)
        return ids, self._unpack(arrays["labels"])

    def _unpack(self, packed: np.ndarray) -> np.ndarray:
        height, width = self.header["grid"]
        bits, count = self.header["bits"], height * width
        planes = np.unpackbits(packed, axis=1, count=count * bits).reshape(len(packed), count, bits)
        labels = np.zeros((len(packed), count), dtype=np.uint8)
        for plane in range(bits):
            labels = (labels << 1) | planes[:, :, plane]
        return labels.reshape(len(packed), height, width)


def _view(column: pa.ChunkedArray, spec: Mapping[str, Any]) -> np.ndarray:
    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    kind = np.dtype(spec["dtype"])
    width = int(np.prod(spec["shape"]))
    values = np.frombuffer(
        array.buffers()[1], dtype=kind, count=len(array) * width, offset=array.offset * width * kind.itemsize
    )
    return values.reshape(len(array), *spec["shape"])
