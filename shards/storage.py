"""Objects of a store, by their URL: s3://, gs://, file:// and whatever else fsspec knows. Sent once, listed, read by range.

Where the server is and who asks comes from the environment (AWS_*) or fsspec's own configuration, and from nowhere else.
What a request does when the network fails is the backend's business: s3fs and botocore try again themselves.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

# What a reader that goes from front to back fetches beyond what it asked for: few requests, and little that is held.
AHEAD_BYTES = 8 * 2**20
# Requests under way at once, where many small ones wait for the network rather than for this process.
REQUESTS = 64


class Object(NamedTuple):
    """One object below a URL: its name from there, as raw bytes, its size, and what changes when its content does."""

    path: bytes
    size: int
    version: str


class ObjectFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """An object of known size as a binary file. Opening it asks the store nothing.

    ahead 0: a read is one request for its bytes and no others, for a reader that knows its ranges. Otherwise a read
    fetches so many bytes more, for one that goes on from there.
    """

    def __init__(self, url: str, size: int, *, ahead: int = 0) -> None:
        self.url = url
        fs, path = _resolve(url)
        super().__init__(fs, path, "rb", block_size=ahead, cache_type="readahead" if ahead else "none", size=size)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return fetch(self.url, start, min(end, self.size))


def fetch(url: str, start: int, end: int) -> bytes:
    """The bytes start .. end - 1 of an object, fewer where it ends before: one request."""
    fs, path = _resolve(url)
    with _named(url):
        data: bytes = fs.cat_file(path, start=start, end=end)
    return data


def size_of(url: str) -> int | None:
    """Bytes of an object, or None where there is none: one request."""
    fs, path = _resolve(url)
    with _named(url):
        try:
            size: int = fs.info(path)["size"]
        except FileNotFoundError:
            return None
    return size


def sizes_of(urls: Sequence[str]) -> list[int | None]:
    """`size_of` each URL, many at a time."""
    if not urls:
        return []
    with ThreadPoolExecutor(min(REQUESTS, len(urls))) as pool:
        return list(pool.map(size_of, urls))


def send(source: Path, url: str) -> None:
    """Put a file where one of the same name and size may lie already, and is then left: the name must tell the content."""
    size = source.stat().st_size
    if size_of(url) == size:
        return
    fs, path = _resolve(url)
    with _named(url):
        fs.put_file(str(source), path)
    found = size_of(url)
    if found != size:
        raise ValueError(f"{url}: {found} bytes are there after {size} were sent; run it again")


def list_objects(url: str) -> Iterator[Object]:
    """Every object below a URL, in no certain order; none where there is nothing."""
    fs, path = _resolve(url)
    with _named(url):
        found: dict[str, Any] = fs.find(path, detail=True)
    base = path.rstrip("/") + "/"
    for name, info in found.items():
        if name.startswith(base) and info["type"] == "file" and not name.endswith("/"):
            yield Object(name.removeprefix(base).encode(), info["size"], _version(info))


def _version(info: dict[str, Any]) -> str:
    """ETag where the store has one, otherwise when it was changed."""
    names = ("ETag", "etag", "mtime", "updated", "LastModified", "created")
    return next((str(info[name]).strip('"') for name in names if info.get(name)), "")


def _resolve(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL in this process, and the path there.

    One a process, because a forked one must not use its parent's connections; threads share it.
    """
    fs = _file_system(url.split("://", 1)[0], os.getpid())
    return fs, fs._strip_protocol(url)


@cache
def _file_system(protocol: str, pid: int) -> AbstractFileSystem:
    # Without fsspec's cache of listings: sizes are asked for to learn of what has changed since.
    options = {"auto_mkdir": True} if protocol == "file" else {}
    try:
        return fsspec.filesystem(protocol, use_listings_cache=False, **options)
    except ImportError as error:
        mend = "pip install 'semmae[s3]'" if protocol in ("s3", "s3a") else str(error)
        raise ValueError(f"{protocol}://: a package is missing for this kind of store; {mend}") from None
    except ValueError as error:
        raise ValueError(f"{protocol}://: {error}; write s3://BUCKET/PREFIX, or file:///FOLDER") from None


@contextlib.contextmanager
def _named(url: str) -> Iterator[None]:
    """One line that names the URL, whatever the backend's own exceptions are."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{url}: there is no such object") from None
    except PermissionError as error:
        raise PermissionError(f"{url}: {_line(error)}; the store does not allow it to these credentials") from None
    except Exception as error:
        raise ValueError(
            f"{url}: {type(error).__name__}: {_line(error)}; AWS_ENDPOINT_URL and the other AWS_ variables say where "
            "the store is and who asks"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
