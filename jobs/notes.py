"""Small JSON files of the state folder: what one process notes for the next, each with a digest of its own (`shards.seals`)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.state import STATE_FOLDER
from shards.seals import read_sealed, write_sealed

PLACES = ("records/*.json", "first/*.json", "executions/*.json", "replayed.json", "services/services.json")


def write_note(path: str | Path, document: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    write_sealed(path, document)


def read_note(path: str | Path) -> dict[str, Any]:
    """What was noted, empty where nothing was; a damaged file is a ValueError that names it."""
    try:
        return read_sealed(path) if Path(path).is_file() else {}
    except ValueError:
        raise ValueError(f"{path}: damaged, or not a note of this version; see `semmae doctor`") from None


def damaged_notes(tree: Path) -> Iterator[Path]:
    """The notes of a tree that cannot be read; those of experiments are `pipeline.experiments`' own."""
    for path in sorted(path for place in PLACES for path in (tree / STATE_FOLDER).glob(place)):
        if not is_sound(path):
            yield path


def is_sound(path: Path) -> bool:
    """Whether a note is absent, or what was written."""
    try:
        read_note(path)
    except ValueError:
        return False
    return True
