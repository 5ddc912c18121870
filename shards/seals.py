"""Files that carry their own SHA-256, so that a flipped bit or a truncated copy is never read as data.

A sealed JSON object holds the SHA-256 of everything else in it. A manifest is a sealed object that describes its folder.
A sealed file of bytes ends with its SHA-256. Damage is a ValueError that names the file.

Versions: a manifest states its format under `version`, and `read_manifest` refuses any other. The manifest of a folder of
weights is version 1 and states none, so that the bytes of finished runs stay the same. Sealed bytes have no version: they hold
state of one run (checkpoints, the order of a preparation), which a torch or NumPy file inside describes.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from shards.files import distrust, json_text, read_json, sha256_of, sync, whole_file, write_json

MANIFEST = "manifest.json"
SEAL = "sha256"
BYTES = hashlib.sha256().digest_size
# Of the manifest of a folder of weights.
FILES_VERSION = 1


def write_sealed(path: str | Path, document: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all, with the digest of the rest under `sha256`."""
    plain = json.loads(json.dumps(document, allow_nan=False))
    assert SEAL not in plain, path
    write_json(path, {**plain, SEAL: _digest_of(plain)})


def read_sealed(path: str | Path) -> dict[str, Any]:
    """The object that `write_sealed` wrote; a missing or damaged file is a ValueError that names it.

    White space counts too: DVC hashes the bytes of the file, not their meaning.
    """
    document: Any = read_json(path)
    is_whole = isinstance(document, dict) and Path(path).read_text(encoding="utf-8") == json_text(document)
    if not is_whole or document.pop(SEAL, None) != _digest_of(document):
        distrust(path)
        raise ValueError(f"{path}: damaged: its content does not match its sha256; {mend(Path(path).parent)}")
    return dict(document)


def read_manifest(folder: Path, version: int) -> dict[str, Any]:
    """The manifest of a folder; a missing, damaged or differently versioned one is a ValueError that names it."""
    manifest = read_sealed(folder / MANIFEST)
    if (got := manifest.get("version", FILES_VERSION)) != version:
        raise ValueError(f"{folder}: format version {got}, expected {version}; {mend(folder)}")
    return manifest


def write_manifest(folder: Path) -> None:
    """Write the manifest of a folder of finished files: the SHA-256 of each. Flushes the files first."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        sync(path)
    write_sealed(folder / MANIFEST, {"files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}})


def check_files(folder: str | Path, *names: str) -> None:
    """ValueError unless the files `names` of `folder` are byte for byte those of its manifest."""
    listed = read_manifest(Path(folder), FILES_VERSION).get("files", {})
    for name in names:
        path, expected = Path(folder) / name, listed.get(name)
        got = sha256_of(path) if path.is_file() else None
        if expected is None or got != expected:
            distrust(path)
            fault = "missing" if got is None else f"damaged: its sha256 is {got}, the manifest says {expected}"
            raise ValueError(f"{path}: {fault}; {mend(Path(folder))}")


def mend(path: Path) -> str:
    """How to repair a damaged out. It must be deleted, because DVC trusts a file of unchanged time and size."""
    return f"delete {path} and run `dvc repro`, which makes it again"


@contextlib.contextmanager
def sealed_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing bytes as `whole_file` does; their SHA-256 is appended."""
    with whole_file(path) as file:
        hashed = Hashed(file)
        try:
            # torch and NumPy only write and flush.
            yield cast(IO[bytes], hashed)
        except RuntimeError:
            # torch's writer replaces the file's own error.
            if hashed.fault is not None:
                raise hashed.fault from None
            raise
        file.write(hashed.digest.digest())


def read_sealed_bytes(path: str | Path) -> bytes:
    """The bytes written through `sealed_file`; a damaged file is a ValueError that names it."""
    size = Path(path).stat().st_size - BYTES
    with open(path, "rb") as file:
        content = file.read(max(0, size))
        if size < 0 or file.read() != hashlib.sha256(content).digest():
            distrust(path)
            raise ValueError(f"{path}: damaged: its last {BYTES} bytes are not the sha256 of those before")
    return content


class Hashed:
    """A file written from beginning to end, and the digest of its content. fault: the error that stopped a write."""

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
        """Flush the file."""
        self.file.flush()


def _digest_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
