"""Files that vouch for themselves: whoever reads one sees that its bytes are those that were written.

A JSON object holds the SHA-256 of all else in it; a folder of weights has a manifest, itself such an object, with the
SHA-256 of every file; a file of bytes of our own ends with its SHA-256. What does not agree is a ValueError that names the
file, so that a bit that a disk flipped, or a copy that was cut off, is never read as data.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from shards.files import distrust, json_text, read_json, sha256_of, sync, whole_file, write_json

MANIFEST = "manifest.json"
SEAL = "sha256"
BYTES = hashlib.sha256().digest_size


def write_sealed(path: str | Path, document: Mapping[str, Any]) -> None:
    """Write a JSON object with the digest of all else in it under `sha256`, whole or not at all."""
    plain = json.loads(json.dumps(document, allow_nan=False))
    assert SEAL not in plain, path
    write_json(path, {**plain, SEAL: _digest_of(plain)})


def read_sealed(path: str | Path) -> dict[str, Any]:
    """What `write_sealed` was given; a missing or damaged file is a ValueError that names it.

    Every byte counts, also one that means nothing in JSON: the file may be linked, and then the copy differs.
    """
    document = read_json(path)
    is_whole = isinstance(document, dict) and Path(path).read_text(encoding="utf-8") == json_text(document)
    if not is_whole or document.pop(SEAL, None) != _digest_of(document):
        distrust(path)
        raise ValueError(f"{path}: damaged: it is not what its sha256 says; {mend(Path(path).parent)}")
    return document


def write_manifest(folder: Path) -> None:
    """Write the manifest of an existing folder, last: the SHA-256 of each of its files, which the disk has by then."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        sync(path)
    write_sealed(folder / MANIFEST, {"files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}})


def check_files(folder: str | Path, *names: str) -> None:
    """ValueError unless the files `names` of `folder` are those of its manifest, byte for byte."""
    listed = read_sealed(Path(folder) / MANIFEST).get("files", {})
    for name in names:
        path, expected = Path(folder) / name, listed.get(name)
        found = sha256_of(path) if path.is_file() else None
        if expected is None or found != expected:
            distrust(path)
            told = "missing" if found is None else f"damaged: its sha256 is {found}, the manifest says {expected}"
            raise ValueError(f"{path}: {told}; {mend(Path(folder))}")


def mend(path: Path) -> str:
    """What to do about a damaged out: DVC takes one whose time and size are as they were for what it was."""
    return f"delete {path} and run `dvc repro`, which makes it again"


@contextlib.contextmanager
def sealed_file(path: str | Path) -> Iterator["Hashed"]:
    """Open `path` for bytes as `whole_file` does; the SHA-256 of what is written follows them."""
    with whole_file(path) as file:
        hashed = Hashed(file)
        try:
            yield hashed
        except RuntimeError:
            # torch's writer covers what went wrong with the file by an error of its own.
            if hashed.fault is not None:
                raise hashed.fault from None
            raise
        file.write(hashed.digest.digest())


def read_sealed_bytes(path: str | Path) -> bytes:
    """What was written through `sealed_file`; a damaged file is a ValueError that names it."""
    size = Path(path).stat().st_size - BYTES
    with open(path, "rb") as file:
        content = file.read(max(0, size))
        if size < 0 or file.read() != hashlib.sha256(content).digest():
            distrust(path)
            raise ValueError(f"{path}: damaged: its last {BYTES} bytes are not the sha256 of those before")
    return content


class Hashed:
    """A file that is written from its beginning to its end, and the digest of that. fault: what kept it from being written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.fault: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes."""
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.fault = error
            raise

    def flush(self) -> None:
        """Hand on what is buffered."""
        self.file.flush()


def _digest_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
