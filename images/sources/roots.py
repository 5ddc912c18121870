"""Where a user's images lie, a folder of this machine or a prefix in a store, seen as one tree of entries."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from images.sources.entries import Entry, subfolders, walk
from shards.storage import AHEAD_BYTES, ObjectFile, list_objects
from shards.urls import is_url


class Root(Protocol):
    """A tree of entries. Paths are raw bytes, relative, `/` between their parts.

    name: of the root, as the user wrote it.
    """

    name: str

    def walk(self) -> Iterator[Entry]:
        """Everything below, files and faults."""
        ...

    def subfolders(self, folder: bytes = b"") -> set[bytes]:
        """Names of the folders in a folder, hidden ones left out."""
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
        """See `images.sources.entries.walk`."""
        return walk(self._base)

    def subfolders(self, folder: bytes = b"") -> set[bytes]:
        """See `images.sources.entries.subfolders`."""
        return subfolders(os.path.join(self._base, folder))

    def open(self, path: bytes, *, ahead: int = AHEAD_BYTES) -> BinaryIO:
        """The file itself."""
        return open(os.path.join(self._base, path), "rb")


class StoreRoot:
    """What lies below a URL, listed once: a folder is what objects have in common up to a `/`.

    A picture is fetched with one request.
    """

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        self._entries = {found.path: Entry(found.path, found.size, found.version) for found in list_objects(self.name)}

    def walk(self) -> Iterator[Entry]:
        """Every object."""
        return iter(self._entries.values())

    def subfolders(self, folder: bytes = b"") -> set[bytes]:
        """Names that begin at `folder` and go on behind a `/`."""
        start = folder + b"/" if folder else b""
        below = (path[len(start) :].split(b"/", 1) for path in self._entries if path.startswith(start))
        return {parts[0] for parts in below if len(parts) == 2 and not parts[0].startswith(b".")}

    def open(self, path: bytes, *, ahead: int = AHEAD_BYTES) -> BinaryIO:
        """The object; nothing is asked of the store before something is read."""
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
