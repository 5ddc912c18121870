"""Resume state that no job will continue from, and what trainings left for a follower."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from jobs import live
from jobs.notes import read_note
from jobs.state import STATE_FOLDER, state_folder
from jobs.supervision import is_alive
from pipeline.doctor.findings import REMOVE, Finding
from pipeline.experiments import FINISHED, experiments
from shards.locks import lock

SCRATCH_DAYS = 7.0
# Longer than a stage takes from its last row to its record.
LINES_SECONDS = 3600.0


def old_scratch(*, repair: bool) -> Iterator[Finding]:
    """Folders of resume state that no process holds and nothing was written to for `SCRATCH_DAYS`.

    What a killed job saved is precious, and whether its fingerprint still is that of a job cannot be known without hashing
    all data. So nothing counts that an unfinished experiment, which began before the last checkpoint, may continue from.
    """
    unfinished = [experiment.started for experiment in experiments() if experiment.status != FINISHED]
    for folder in sorted((state_folder() / "scratch").glob("*/*/")):
        # Of the folder: each new checkpoint renews it.
        written = folder.stat().st_mtime
        days = (time.time() - written) / 86400
        if days < SCRATCH_DAYS or any(started <= written for started in unfinished):
            continue
        try:
            held = lock(folder, folder.parent.name)
        except ValueError:
            continue
        with held:
            if repair:
                shutil.rmtree(folder)
                with contextlib.suppress(OSError):  # folders of other jobs are beside it
                    folder.parent.rmdir()
        yield Finding(f"{folder}", "resume state that nobody uses", REMOVE[repair], f"for {days:.0f} days")


def stale_lines(*, repair: bool) -> Iterator[Finding]:
    """Line files of trainings that nobody will resume and no replay will complete."""
    for path in sorted(live.folder().glob("*.jsonl")):
        job, _, fingerprint = path.stem.rpartition(".")
        if (
            state_folder() / "scratch" / job / fingerprint
        ).is_dir() or time.time() - path.stat().st_mtime < LINES_SECONDS:
            continue
        begin = [line for _, line in live.lines_of(path) if "process" in line][-1:]
        if any(is_alive(line["process"]) or _is_recorded(line, path.stem) for line in begin):
            continue
        if repair:
            live.forget(path)
        yield Finding(f"{path}", "rows of a training that nobody will resume", REMOVE[repair])


def _is_recorded(begin: dict[str, str], name: str) -> bool:
    """Whether its tree has a record of this training that no replay has written."""
    return read_note(Path(begin["tree"], STATE_FOLDER, "records", f"{begin['stage']}.json")).get("live") == name
