"""Files that appear whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

# System errors for a full disk, an exceeded quota and a file size limit; they do not name the file.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Words in the errors of torch, Arrow and the system when memory runs out; their types differ.
NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "can't start new thread")
# Paths of the files that this process has written.
written: set[Path] = set()


@contextlib.contextmanager
def whole_file(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open `path` for writing so that it appears complete or not at all.

    Written beside the target, flushed to the disk, then renamed over it: a reader, or a process killed at any
    instruction, sees the old file or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    written.add(path)


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that takes the place of `path` when the block ends without an error.

    A process killed at any instruction leaves the old folder, the new one, or for a moment neither, and never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside = path.with_name(f".{path.name}.old.{os.getpid()}.tmp")
    for left in (temporary, aside):
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        sync(temporary)
        if path.is_dir():
            os.replace(path, aside)
        os.replace(temporary, path)
    finally:
        if aside.is_dir() and not path.exists():
            os.replace(aside, path)
        for left in (temporary, aside):
            shutil.rmtree(left, ignore_errors=True)
    sync(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` whole or not at all."""
    with whole_file(path, "w") as file:
        file.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write `json_text(value)`, whole or not at all."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON with sorted keys; NaN is refused."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_rows(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write a JSON list with one row a line, a format that `dvc plots` reads."""
    body = ",\n".join(json.dumps(row, sort_keys=True, allow_nan=False) for row in rows)
    write_text(path, f"[\n{body}\n]\n" if rows else "[]\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a missing or damaged one is a ValueError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: not found; run the stage that makes it (dvc repro)") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        distrust(path)
        raise ValueError(f"{path}: damaged JSON ({error}); delete it and run `dvc repro` again") from None


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_of(path: str | Path) -> str:
    """MD5 of a file's bytes, in hexadecimal, as in dvc.lock. ValueError if the file is missing."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except FileNotFoundError:
        raise ValueError(f"{path}: not found; run the stage that makes it (dvc repro)") from None


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Hard-link `source` as `target`, or copy it where the file system cannot link."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def distrust(path: str | Path) -> None:
    """Make DVC check a damaged file against its hash before using it again.

    Outs are hard links to objects of DVC's cache, which it trusts while they are write-protected and their time is unchanged.
    Without this, DVC would restore the damaged object after the out was deleted.
    """
    with contextlib.suppress(OSError):
        os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | stat.S_IWUSR)
        os.utime(path)


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, rather than that a file is damaged."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
