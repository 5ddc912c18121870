"""Files and folders that `shards.files` had not finished when its process was killed."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from config.params import read_yaml
from jobs.state import STATE_FOLDER
from pipeline.doctor.findings import REMOVE, Finding
from pipeline.doctor.processes import was_made_by
from shards.locks import lock

# .NAME.PID.tmp
TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")
# Folders that commands write, besides those of stages.
OTHER_OUTS = ("exported", "weights")


def half_written_files(tree: Path, *, repair: bool) -> Iterator[Finding]:
    """Temporaries beside the outs of a tree and in its state folder whose process is gone."""
    for path in (*_beside_outs(tree), *_in_state(tree)):
        match = TEMPORARY.fullmatch(path.name)
        try:
            moment = path.stat().st_mtime
        except FileNotFoundError:
            continue  # its writer has just finished
        if match and not was_made_by(int(match[1]), moment) and not _is_worked_in(path.parent):
            if repair and path.is_dir():
                shutil.rmtree(path)
            elif repair:
                path.unlink(missing_ok=True)
            yield Finding(f"{path}", "half-written by a process that is gone", REMOVE[repair])


def _is_worked_in(folder: Path) -> bool:
    """Whether a job holds the lock of `folder`: then a worker on another machine may be writing there."""
    if not (folder / "lock").is_file():
        return False
    try:
        lock(folder, folder.name).close()
    except ValueError:
        return True
    return False


def _beside_outs(tree: Path) -> Iterator[Path]:
    outs = {f"{folder}/any" for folder in OTHER_OUTS}
    for stage in read_yaml(tree / "dvc.yaml")["stages"].values():
        for out in (out for section in ("outs", "metrics", "plots") for out in stage.get(section, ())):
            # An item of a matrix stands for a folder of any name: `${item.arm}` -> `*`.
            outs.add(re.sub(r"\$\{[^}]*\}", "*", out if isinstance(out, str) else next(iter(out))))
    for pattern in sorted({str(Path(out).with_name(".*.tmp")) for out in outs}):
        yield from tree.glob(pattern)


def _in_state(tree: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(tree / STATE_FOLDER):
        yield from (Path(folder) / name for name in (*folders, *files) if TEMPORARY.fullmatch(name))
        # Worktrees are trees of their own, and Prefect writes its own files.
        folders[:] = [
            name for name in folders if name not in ("worktrees", "prefect") and not TEMPORARY.fullmatch(name)
        ]
