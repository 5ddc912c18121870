"""A folder that one process at a time works in."""

import fcntl
from pathlib import Path
from typing import IO


def lock(folder: Path, job: str) -> IO[str]:
    """Make `folder` where it is missing and hold it until the returned file is closed.

    The kernel releases the lock of a killed process. Raises ValueError when another process holds it: it works on the
    very same job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / "lock", "a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"{job}: another process runs this very job (lock {folder / 'lock'}); wait for it") from None
    return file
