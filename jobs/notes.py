"""Small JSON files of the state folder, which one process leaves for the next, each with a digest of its own (`shards.seals`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shards.seals import read_sealed, write_sealed

# Below the state folder of a tree; the notes of experiments are `pipeline.experiments`' own.
PLACES = (
    "records/*.json", "first/*.json", "executions/*.json", "live/*.json", "replayed.json", "services/services.json",
)  # fmt: skip
# Of the format of all notes. Files from before it was written are of version 1.
VERSION = 1


def write_note(path: str | Path, document: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    assert "version" not in document, path
    write_sealed(path, {"version": VERSION, **document})


def read_note(path: str | Path) -> dict[str, Any]:
    """The object in the file, empty where there is none; a damaged file, or another version, is a ValueError that names it."""
    try:
        document = read_sealed(path) if Path(path).is_file() else {}
        version = document.pop("version", 1)
    except ValueError:
        raise ValueError(f"{path}: damaged, or not a note of this version; see `semmae doctor`") from None
    if version != VERSION:
        raise ValueError(f"{path}: got version {version}, expected {VERSION}; update the code, or see `semmae doctor`")
    return document


def is_sound(path: Path) -> bool:
    """Whether a note can be read, or is absent."""
    try:
        read_note(path)
    except ValueError:
        return False
    return True
