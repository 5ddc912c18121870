"""Everything that lies below a folder, whatever state it is in: one entry a file, and a reason where it has none."""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, or what stands in place of one.

    path: raw bytes, relative, `/` between its parts. problem: empty for a regular file; otherwise `unreadable`,
    `unreadable folder`, `broken link`, `link loop`, `not a file` or `empty folder`, and `detail` says more.
    version: what changes when the content does, the modification time in ns or the ETag of an object.
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


def walk(root: str | bytes | Path) -> Iterator[Entry]:
    """All entries below `root` in an order that depends on their names alone; links are followed.

    A link to a folder that contains the link is a loop and is not entered. Names are bytes, so none is unreadable.
    """
    base = os.fsencode(root)
    waiting = [(b"", (_identity(os.stat(base)),))]
    while waiting:
        folder, above = waiting.pop()
        try:
            with os.scandir(os.path.join(base, folder)) as found:
                names = sorted((entry.name for entry in found), reverse=True)
        except OSError as error:
            yield Entry(folder, 0, "0", "unreadable folder", error.strerror)
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


def subfolders(root: str | bytes | Path) -> set[bytes]:
    """Names of the folders in `root`, links to folders included and hidden ones left out."""
    with os.scandir(os.fsencode(root)) as found:
        return {entry.name for entry in found if not entry.name.startswith(b".") and _is_folder(entry)}


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # A link that leads to itself; `walk` reports it.


def _broken(base: bytes, path: bytes, error: OSError) -> Entry:
    try:
        status = os.lstat(os.path.join(base, path))
    except OSError:
        return Entry(path, 0, "0", "unreadable", error.strerror)
    if error.errno == errno.ELOOP:
        return Entry(path, 0, str(status.st_mtime_ns), "link loop", error.strerror)
    is_dangling = stat.S_ISLNK(status.st_mode) and error.errno in (errno.ENOENT, errno.ENOTDIR)
    return Entry(path, 0, str(status.st_mtime_ns), "broken link" if is_dangling else "unreadable", error.strerror)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
