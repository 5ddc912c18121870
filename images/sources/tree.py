"""Where a user's images lie, a folder of this machine or a prefix in a store, as one tree of entries.

An entry is a file, or anything else with the reason why it cannot be read: nothing below a root is left out.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote_from_bytes

from shards.files import whole_file
from shards.storage import AHEAD_BYTES, ObjectFile, list_objects
from shards.urls import is_url

# The reason of what systems and programs leave among images: listed, and counted for nothing.
LITTER = "litter"
_LITTER = re.compile(
    rb"(?:^|/)(?:\.|__MACOSX(?:/|$)|@eaDir(?:/|$)|(?:Thumbs\.db|ehthumbs\.db|desktop\.ini|Icon\r)$)", re.IGNORECASE
)
# The first line of a listing, before the place that it lists.
_HEAD = "listing of "


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, or something that is none and its problem.

    path: raw bytes, relative, `/` between its parts. problem: empty for a regular file; otherwise `unreadable`,
    `unreadable folder`, `broken link`, `link loop`, `not a file` or `empty folder`, and `detail` describes it.
    version: changes when the content does; the modification time in ns or the ETag of an object.
    """

    path: bytes
    size: int
    version: str
    problem: str = ""
    detail: str = ""


def shown(path: bytes) -> str:
    """A raw path as text: itself where it is UTF-8, otherwise percent-encoded."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        return quote_from_bytes(path, safe="/")


def is_litter(path: bytes) -> bool:
    """Whether a file or folder is hidden, lies in a hidden folder, or was left by a file manager."""
    return _LITTER.search(path) is not None


def walk(root: str | bytes | Path) -> Iterator[Entry]:
    """All entries below `root` in an order that depends on their names alone; links are followed.

    A link to a folder that contains the link is a loop and is not entered. Names are bytes, so none is unreadable.
    """
    base = os.fsencode(root)
    waiting: list[tuple[bytes, tuple[tuple[int, int], ...]]] = [(b"", (_identity(os.stat(base)),))]
    while waiting:
        folder, above = waiting.pop()
        try:
            with os.scandir(os.path.join(base, folder)) as entries:
                names = sorted((entry.name for entry in entries), reverse=True)
        except OSError as error:
            yield Entry(folder, 0, "0", "unreadable folder", str(error.strerror))
            continue
        if not names:
            yield Entry(folder, 0, "0", "empty folder", "holds no file")
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.stat(os.path.join(base, path))
            except OSError as error:
                yield _broken(base, path, error)
                continue
            if stat.S_ISDIR(status.st_mode):
                if _identity(status) in above:
                    yield Entry(path, 0, "0", "link loop", "leads to a folder that it lies in")
                else:
                    waiting.append((path, (*above, _identity(status))))
            elif stat.S_ISREG(status.st_mode):
                yield Entry(path, status.st_size, str(status.st_mtime_ns))
            else:
                yield Entry(path, 0, "0", "not a file", "a pipe, socket or device")


def _broken(base: bytes, path: bytes, error: OSError) -> Entry:
    try:
        status = os.lstat(os.path.join(base, path))
    except OSError:
        return Entry(path, 0, "0", "unreadable", str(error.strerror))
    if error.errno == errno.ELOOP:
        return Entry(path, 0, str(status.st_mtime_ns), "link loop", str(error.strerror))
    is_dangling = stat.S_ISLNK(status.st_mode) and error.errno in (errno.ENOENT, errno.ENOTDIR)
    return Entry(path, 0, str(status.st_mtime_ns), "broken link" if is_dangling else "unreadable", str(error.strerror))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class Root(Protocol):
    """A tree of entries. Paths are raw bytes, relative, `/` between their parts.

    name: of the root, as the user wrote it.
    """

    name: str

    def walk(self) -> Iterator[Entry]:
        """Everything below, files and faults."""
        ...

    def open(self, path: bytes, *, ahead: int = AHEAD_BYTES) -> BinaryIO:
        """A file to read from; raises OSError where it cannot be had.

        ahead: bytes beyond those read that a store may send at once.
        """
        ...


class FolderRoot:
    """A folder of this machine: names of any bytes, links followed."""

    def __init__(self, folder: str | Path) -> None:
        self.name = str(folder)
        self._base = os.fsencode(folder)

    def walk(self) -> Iterator[Entry]:
        """See `images.sources.tree.walk`."""
        return walk(self._base)

    def open(self, path: bytes, *, ahead: int = AHEAD_BYTES) -> BinaryIO:
        """The file itself."""
        return open(os.path.join(self._base, path), "rb")


class StoreRoot:
    """What lies below a URL, listed once: a folder is what objects have in common up to a `/`.

    A picture is fetched with one request.
    """

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        self._entries = {
            object.path: Entry(object.path, object.size, object.version) for object in list_objects(self.name)
        }

    def walk(self) -> Iterator[Entry]:
        """Every object."""
        return iter(self._entries.values())

    def open(self, path: bytes, *, ahead: int = AHEAD_BYTES) -> BinaryIO:
        """The object; the first read sends the first request."""
        return ObjectFile(f"{self.name}/{path.decode()}", self._entries[path].size, ahead=ahead)


def root_of(place: str | Path) -> Root:
    """The root at a path or a URL; ValueError where there is none."""
    if is_url(place):
        root = StoreRoot(str(place))
        if next(root.walk(), None) is None:
            raise ValueError(f"data.path: nothing below {place}; put the images there, or run `semmae use URL`")
        return root
    if not os.path.isdir(place):
        raise ValueError(f"data.path: no folder {place}; put the images there, or run `semmae use FOLDER`")
    return FolderRoot(place)


def write_listing(root: Root, out: str | Path) -> None:
    """Write a text file that changes when an entry below `root` does, for DVC to watch.

    A line with the root's name, then one an entry, sorted: percent-encoded path, size, and modification time in ns or ETag,
    between tabs.
    """
    with whole_file(out, "w") as file:
        file.write(_listing_head(root.name))
        for entry in sorted(root.walk(), key=lambda entry: (entry.path, entry.size, entry.version)):
            file.write(f"{quote_from_bytes(entry.path, safe='/')}\t{entry.size}\t{entry.version}\n")


def check_listing(listing: str | Path, place: str) -> None:
    """ValueError where a file is not the listing of the folder or URL `place`."""
    try:
        with open(listing, encoding="utf-8", errors="replace") as file:
            head = file.readline(10_000)
    except FileNotFoundError:
        head = "no listing"
    if head != _listing_head(place):
        what = head.strip()[:200] if head.startswith((_HEAD, "no ")) else "a listing of nothing that it names"
        raise ValueError(f"{listing}: got {what}, expected the listing of {place}; run `semmae use {place}`")


def _listing_head(place: str) -> str:
    return f"{_HEAD}{quote_from_bytes(os.fsencode(place.rstrip('/')), safe='/:')}\n"


def unhashable_entries(root: str | Path) -> list[tuple[str, str]]:
    """(path, reason) of every entry that DVC cannot hash or does not see.

    DVC fails on names that are not UTF-8, broken links and unreadable files, and hangs on a pipe. It does not follow links
    to folders, so a change behind one would rerun nothing.
    """
    base = os.fsencode(root)
    odd = {shown(path): "a link to a folder, which DVC does not follow" for path in _linked_folders(base)}
    for entry in walk(root):
        if shown(entry.path).encode() != entry.path:
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
