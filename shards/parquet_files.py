"""The Parquet files that a manifest names, in its folder or in a store: put there, found whole, and opened."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards.files import distrust, is_lack_of_memory, sha256_of
from shards.storage import ObjectFile, fetch, send, size_of, sizes_of
from shards.urls import is_url

# Where a file lies: a path, or a URL as text.
Place = Path | str


def keep(path: Path, store: str) -> dict[str, Any]:
    """The entry of a finished file in its manifest: file or url, bytes, sha256, and bytes and sha256 of its footer.

    With a store, the URL that its objects begin with, the file moves there under its hash. What has been sent once is not
    sent again, so that a run which was interrupted goes on where it stopped.
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
    """Where every file of a manifest in `folder` lies; ValueError names the first that is missing or not of its size."""
    places: list[Place] = [entry["url"] if "url" in entry else folder / entry["file"] for entry in entries]
    remote = iter(sizes_of([place for place in places if isinstance(place, str)]))
    for place, entry in zip(places, entries, strict=True):
        size = next(remote) if isinstance(place, str) else place.stat().st_size if place.is_file() else None
        if size != entry["bytes"]:
            raise faulty(place, f"{size} bytes, the manifest says {entry['bytes']}")
    return places


@contextlib.contextmanager
def opened(
    place: Place,
    *,
    size: int | None = None,
    metadata: pq.FileMetaData | None = None,
    footer: Mapping[str, Any] | None = None,
) -> Iterator[pq.ParquetFile]:
    """A Parquet file to read, its page checksums verified; damage is a ValueError that names it.

    A path is memory-mapped. Of a URL the footer is fetched and what is read, neighbouring columns and row groups in one
    request, and nothing ahead of it. size: of the file, where it is known; otherwise it is asked for. metadata: the
    footer, where it has been read. footer: what the manifest says of it; no page checksum covers it, and it says where the
    rows are and of what type.
    """
    is_object = is_url(place)
    with _telling(place):
        if size is None:
            size = size_of(str(place)) if is_object else Path(place).stat().st_size
        if size is None:
            raise FileNotFoundError(f"{place}: there is no such object")
        if footer is not None:
            metadata = _checked_footer(place, size, footer)
        with (
            ObjectFile(str(place), size) if is_object else contextlib.nullcontext(place) as source,
            pq.ParquetFile(
                source,
                metadata=metadata,
                memory_map=not is_object,
                pre_buffer=is_object,
                page_checksum_verification=True,
            ) as file,
        ):
            yield file


def read_range(place: Place, start: int, size: int) -> bytes:
    """`size` bytes of a file from `start` on, fewer where it ends before: one request where it lies in a store."""
    with _telling(place):
        if is_url(place):
            return fetch(str(place), start, start + size)
        with open(place, "rb") as file:
            file.seek(start)
            return file.read(size)


def _footer_of(place: Place, size: int, length: int | None = None) -> bytes:
    """The end of a Parquet file from its footer on; length: of that, where it is known."""
    if length is None:
        length = 8 + int.from_bytes(read_range(place, size - 8, 4), "little")
    return read_range(place, size - length, length)


def _described(footer: bytes) -> dict[str, Any]:
    return {"bytes": len(footer), "sha256": hashlib.sha256(footer).hexdigest()}


def _checked_footer(place: Place, size: int, expected: Mapping[str, Any]) -> pq.FileMetaData:
    """The footer, of one read of exactly its bytes; ValueError where it is not the one that was written."""
    found = _footer_of(place, size, expected["bytes"])
    if _described(found) != expected:
        raise faulty(place, "damaged: its footer is not the one that was written")
    return pq.read_metadata(pa.BufferReader(found))


@contextlib.contextmanager
def _telling(place: Place) -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError, pa.ArrowException) as error:
        if is_lack_of_memory(error):
            raise
        raise faulty(place, f"damaged ({' '.join(str(error).split())})") from None


def faulty(place: Place, what: str) -> ValueError:
    """The error of a file that is not what the manifest says, with what to do."""
    if is_url(place):
        mend = "run the stage that made it again with `dvc repro --force`, which sends what is not there"
    else:
        distrust(place)
        mend = "delete the folder and run `dvc repro`"
    return ValueError(f"{place}: {what}; {mend}")
