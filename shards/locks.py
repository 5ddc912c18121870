"""A lock on a folder, so that one process at a time works in it."""

import fcntl
import time
from pathlib import Path
from typing import IO

LOOK_SECONDS = 0.2


def lock(folder: Path, job: str, *, seconds: float = 0.0) -> IO[str]:
    """Create `folder` if missing and lock it until the returned file is closed.

    The kernel releases the lock of a killed process. job: its name in the message. Raises ValueError when another process
    still holds the lock after `seconds`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / "lock", "a+", encoding="utf-8")
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                raise ValueError(
                    f"{job}: another process runs this very job (lock {folder / 'lock'}); wait for it"
                ) from None
            time.sleep(LOOK_SECONDS)
