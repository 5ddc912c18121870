"""Where a command begins: at the root of the repository, for a user with a name and a home."""

import getpass
import os
from pathlib import Path

from jobs.state import state_folder

# No other repository has it.
MARK = Path("presets") / "quickstart.yaml"
_stood = Path()


def enter() -> None:
    """Make the root of the repository that the current folder lies in the current folder; elsewhere nothing changes.

    A user whom the machine does not know, as in many containers, gets a name and a home: DVC and Prefect end without.
    """
    global _stood
    _stood = Path.cwd()
    os.chdir(next((folder for folder in (_stood, *_stood.parents) if (folder / MARK).is_file()), _stood))
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())
    if (home := os.path.expanduser("~")) == "/" or not os.path.isdir(home):
        os.environ["HOME"] = str(state_folder())


def check_entered() -> None:
    """ValueError if the current folder is not the root of a repository."""
    if not MARK.is_file():
        raise ValueError(f"{Path.cwd()}: neither this folder nor one above it is a SemMAE repository; cd into one")


def path(given: str | Path) -> Path:
    """A path that the user gave, as seen from the root: a relative one begins in the folder in which he called."""
    return Path(given if os.path.isabs(given) or _stood == Path.cwd() else os.path.relpath(_stood / given))
