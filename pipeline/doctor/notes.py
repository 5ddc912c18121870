"""Corrupted state files. Without them MLflow knows less, and no result changes."""

from collections.abc import Iterator
from pathlib import Path

from jobs.notes import PLACES, is_sound
from jobs.state import STATE_FOLDER
from pipeline.doctor.findings import REMOVE, Finding
from pipeline.experiments import damaged_experiments

DAMAGED = "damaged, or of another version"


def damaged_state(tree: Path, *, repair: bool) -> Iterator[Finding]:
    """Notes of a tree that differ from what was written."""
    for path in sorted(path for place in PLACES for path in (tree / STATE_FOLDER).glob(place)):
        if is_sound(path):
            continue
        if repair:
            path.unlink(missing_ok=True)
        yield Finding(f"{path}", DAMAGED, REMOVE[repair])


def damaged_experiment_notes(*, repair: bool) -> Iterator[Finding]:
    """Notes on experiments that differ from what was written."""
    for path in damaged_experiments(repair=repair):
        yield Finding(f"{path}", DAMAGED, "written again" if repair else "repair writes it again")
