"""A user's images as a source: a folder or a URL, as image files or as Parquet shards, and what DVC can make of it."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes

import pyarrow as pa
import pyarrow.parquet as pq

from images.sources.entries import Entry, shown, walk
from images.sources.folder import FolderSource
from images.sources.items import Source
from images.sources.parquet import ParquetSource, is_shard
from images.sources.roots import Root, root_of
from shards.files import whole_file

# Of image files, as far as names tell: a folder of Parquet files without one can only be shards.
SUFFIXES = (
    b".jpg", b".jpeg", b".jpe", b".png", b".gif", b".bmp", b".tif", b".tiff", b".webp", b".ppm", b".pgm", b".pbm",
    b".jp2", b".avif",
)  # fmt: skip


def open_source(place: str | Path, *, image_column: str, label_column: str) -> Source:
    """List a folder or a URL as image files, or as Parquet shards where a Parquet file has the column `image_column`.

    Raises ValueError where there is no such place or nothing that can be an image, and for two paths of one id.
    """
    root = root_of(place)
    entries = sorted(root.walk(), key=lambda entry: entry.path)
    shards = [entry for entry in entries if is_shard(entry)]
    has_files = any(entry.path.lower().endswith(SUFFIXES) for entry in entries)
    if shards and (not has_files or any(_has_column(root, shard, image_column) for shard in shards)):
        source: Source = ParquetSource(root, entries, image_column=image_column, label_column=label_column)
    else:
        source = FolderSource(root, entries)
    if not source.items:
        raise ValueError(f"data.path: no image among the {len(entries)} entries of {place}")
    _check_ids(source)
    return source


def list_entries(root: Root) -> Iterator[tuple[bytes, int, str]]:
    """(raw relative path, size in bytes, version) of everything below a root, files and faults."""
    for entry in root.walk():
        yield entry.path, entry.size, entry.version


def write_listing(root: Root, out: str | Path) -> None:
    """Write a text file that changes when an entry below `root` does: what DVC watches in its place.

    A line an entry, sorted: percent-encoded path, size, and modification time in ns or ETag, between tabs.
    """
    with whole_file(out, "w") as file:
        for path, size, version in sorted(list_entries(root)):
            file.write(f"{quote_from_bytes(path, safe='/')}\t{size}\t{version}\n")


def unhashable_entries(root: str | Path) -> list[tuple[str, str]]:
    """(path, why) of every entry that DVC stops at, or does not see.

    It fails on names that are not UTF-8, broken links and unreadable files, waits for ever on a pipe, and leaves out
    what lies behind a link to a folder, so that a change there would rerun nothing.
    """
    base = os.fsencode(root)
    odd = {shown(path): "a link to a folder, which DVC does not follow" for path in _linked_folders(base)}
    for entry in walk(root):
        if not _is_utf8(entry.path):
            odd[shown(entry.path)] = "its name is not UTF-8"
        elif entry.problem and entry.problem != "empty folder":
            odd[shown(entry.path)] = entry.problem
        elif not os.access(os.path.join(base, entry.path), os.R_OK):
            odd[shown(entry.path)] = "unreadable"
    return list(odd.items())


def _linked_folders(base: bytes) -> Iterator[bytes]:
    for folder, names, _ in os.walk(base):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                yield os.path.relpath(path, base)


def _is_utf8(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_column(root: Root, entry: Entry, column: str) -> bool:
    try:
        with root.open(entry.path) as file:
            return column in pq.read_schema(file).names
    except (OSError, pa.ArrowException):
        return False  # Among image files it is one more thing that is not an image.


def _check_ids(source: Source) -> None:
    by_id: dict[int, bytes] = {}
    for item in source.items:
        other = by_id.setdefault(item.id, item.path)
        if other is not item.path:
            raise ValueError(f"{shown(other)} and {shown(item.path)} have the same id {item.id}; rename one of them")
