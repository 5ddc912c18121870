"""The Parquet files that a manifest lists, in its folder or in a store: kept, checked, opened, and read as arrays."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.files import distrust, is_lack_of_memory, sha256_of
from shards.storage import ObjectFile, fetch, send, sizes_of
from shards.urls import is_url

# A path, or a URL as text.
Place = Path | str


def keep(path: Path, store: str) -> dict[str, Any]:
    """Manifest entry of a finished file: file or url, bytes, sha256, and bytes and sha256 of its footer.

    store: URL prefix, or empty. With one, the file moves there under its hash. Objects already there are not sent again, so
    an interrupted run continues where it stopped.
    """
    size = path.stat().st_size
    entry = {"bytes": size, "sha256": sha256_of(path), "footer": _described(_footer_of(path, size))}
    if not store:
        return {"file": path.name, **entry}
    url = f"{store.rstrip('/')}/{entry['sha256']}.parquet"
    send(path, url)
    path.unlink()
    return {"url": url, **entry}


def find(folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[Place]:
    """Path or URL of every manifest entry; ValueError names the first file that is missing or of another size."""
    places: list[Place] = [entry["url"] if "url" in entry else folder / entry["file"] for entry in entries]
    remote = iter(sizes_of([place for place in places if isinstance(place, str)]))
    for place, entry in zip(places, entries, strict=True):
        size = next(remote) if isinstance(place, str) else place.stat().st_size if place.is_file() else None
        if size != entry["bytes"]:
            raise faulty(place, f"{size} bytes, the manifest says {entry['bytes']}")
    return places


@contextlib.contextmanager
def opened(place: Place, *, size: int, footer: Mapping[str, Any]) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file for reading and verify its page checksums; damage is a ValueError that names it.

    A path is memory-mapped. From a URL only the footer and what is read are fetched, neighbouring columns and row groups
    in one request. size: bytes of the file. footer: the footer's manifest entry, which is checked, because page checksums do
    not cover it.
    """
    is_object = is_url(place)
    with (
        _naming(place),
        ObjectFile(str(place), size) if is_object else contextlib.nullcontext(place) as source,
        pq.ParquetFile(
            source,
            metadata=_checked_footer(place, size, footer),
            memory_map=not is_object,
            pre_buffer=is_object,
            page_checksum_verification=True,
        ) as file,
    ):
        yield file


def read_range(place: Place, start: int, size: int) -> bytes:
    """`size` bytes of a file from `start` on, fewer at its end; one request to a store."""
    with _naming(place):
        if is_url(place):
            return fetch(str(place), start, start + size)
        with open(place, "rb") as file:
            file.seek(start)
            return file.read(size)


def _footer_of(place: Place, size: int, length: int | None = None) -> bytes:
    """The last bytes of a Parquet file, from its footer on; length: their number, if known."""
    if length is None:
        length = 8 + int.from_bytes(read_range(place, size - 8, 4), "little")
    return read_range(place, size - length, length)


def _described(footer: bytes) -> dict[str, Any]:
    return {"bytes": len(footer), "sha256": hashlib.sha256(footer).hexdigest()}


def _checked_footer(place: Place, size: int, expected: Mapping[str, Any]) -> pq.FileMetaData:
    """The footer, read in one request; ValueError where it differs from the one written."""
    found = _footer_of(place, size, expected["bytes"])
    if _described(found) != expected:
        raise faulty(place, "damaged: its footer is not the one that was written")
    return pq.read_metadata(pa.BufferReader(found))


@contextlib.contextmanager
def _naming(place: Place) -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError, pa.ArrowException) as error:
        if is_lack_of_memory(error):
            raise
        raise faulty(place, f"damaged ({' '.join(str(error).split())})") from None


def faulty(place: Place, what: str) -> ValueError:
    """The error for a file that differs from its manifest entry, with the way to repair it."""
    if is_url(place):
        mend = "run the stage that made it again with `dvc repro --force`, which sends what is not there"
    else:
        distrust(place)
        mend = "delete the folder and run `dvc repro`"
    return ValueError(f"{place}: {what}; {mend}")


def values_of(column: pa.ChunkedArray) -> np.ndarray:
    """A column of whole numbers without nulls as an array (N,), read-only where the column is one chunk.

    Not pyarrow's `to_numpy`: it imports pandas, which takes a second in every job.
    """
    chunks = [np.from_dlpack(chunk) for chunk in column.chunks if len(chunk)]
    if len(chunks) == 1:
        return chunks[0]
    return np.concatenate([np.empty(0, column.type.to_pandas_dtype()), *chunks])
