"""Objects of a store by URL (s3://, gs://, file:// and any other protocol of fsspec): sent once, listed, read by range.

The server and the credentials come only from the environment (AWS_*) or from fsspec's configuration. Retries are left to the
backend: s3fs and botocore retry by themselves.
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

# Read-ahead of a sequential reader: few requests, little memory.
AHEAD_BYTES = 8 * 2**20
# Parallel requests where many small ones wait for the network.
REQUESTS = 64


class Object(NamedTuple):
    """One object below a URL. path: relative to the URL, raw bytes. size: bytes. version: changes with the content."""

    path: bytes
    size: int
    version: str


class ObjectFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """An object of known size as a binary file. Opening it sends no request.

    ahead: bytes that a read fetches in advance, for a sequential reader; 0 makes each read one request for exactly its bytes.
    """

    def __init__(self, url: str, size: int, *, ahead: int = 0) -> None:
        self.url = url
        fs, path = _resolve(url)
        super().__init__(fs, path, "rb", block_size=ahead, cache_type="readahead" if ahead else "none", size=size)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return fetch(self.url, start, min(end, self.size))


def fetch(url: str, start: int, end: int) -> bytes:
    """Bytes start..end-1 of an object, fewer at its end, in one request."""
    fs, path = _resolve(url)
    with _named(url):
        data: bytes = fs.cat_file(path, start=start, end=end)
    return data


def size_of(url: str) -> int | None:
    """Size of an object in bytes, None if it does not exist, in one request."""
    fs, path = _resolve(url)
    with _named(url):
        try:
            size: int = fs.info(path)["size"]
        except FileNotFoundError:
            return None
    return size


def sizes_of(urls: Sequence[str]) -> list[int | None]:
    """`size_of` each URL, in parallel."""
    if not urls:
        return []
    with ThreadPoolExecutor(min(REQUESTS, len(urls))) as pool:
        return list(pool.map(size_of, urls))


def send(source: Path, url: str) -> None:
    """Upload a file unless an object of that name and size exists. So the name must depend on the content."""
    size = source.stat().st_size
    if size_of(url) == size:
        return
    fs, path = _resolve(url)
    with _named(url):
        fs.put_file(str(source), path)
    stored = size_of(url)
    if stored != size:
        raise ValueError(f"{url}: the store holds {stored} bytes after {size} were sent; run the command again")


def list_objects(url: str) -> Iterator[Object]:
    """Every object below a URL, in any order."""
    fs, path = _resolve(url)
    with _named(url):
        objects: dict[str, Any] = fs.find(path, detail=True)
    base = path.rstrip("/") + "/"
    for name, info in objects.items():
        if name.startswith(base) and info["type"] == "file" and not name.endswith("/"):
            yield Object(name.removeprefix(base).encode(), info["size"], _version(info))


def _version(info: dict[str, Any]) -> str:
    """The ETag, or the time of the last change where the store has none."""
    names = ("ETag", "etag", "mtime", "updated", "LastModified", "created")
    return next((str(info[name]).strip('"') for name in names if info.get(name)), "")


def _resolve(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it.

    Each process has its own, because a forked one must not use its parent's connections; threads share it.
    """
    fs = _file_system(url.split("://", 1)[0], os.getpid())
    return fs, fs._strip_protocol(url)


@cache
def _file_system(protocol: str, pid: int) -> AbstractFileSystem:
    # Without fsspec's cache of listings, which would hide changes.
    options = {"auto_mkdir": True} if protocol == "file" else {}
    try:
        return fsspec.filesystem(protocol, use_listings_cache=False, **options)
    except ImportError as error:
        repair = "pip install 'semmae[s3]'" if protocol in ("s3", "s3a") else str(error)
        raise ValueError(f"{protocol}://: a package is missing for this kind of store; {repair}") from None
    except ValueError as error:
        raise ValueError(f"{protocol}://: {error}; write s3://BUCKET/PREFIX, or file:///FOLDER") from None


@contextlib.contextmanager
def _named(url: str) -> Iterator[None]:
    """Turn any exception of the backend into one line that names the URL."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{url}: there is no such object") from None
    except PermissionError as error:
        raise PermissionError(f"{url}: {_line(error)}; these credentials lack the permission") from None
    except Exception as error:
        raise ValueError(
            f"{url}: {type(error).__name__}: {_line(error)}; check AWS_ENDPOINT_URL and the credentials in "
            "the other AWS_ variables"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
