"""The two folders that live outside DVC's outs: of this worktree alone, and shared by all worktrees of the repository."""

import os
import subprocess
from functools import cache
from pathlib import Path

STATE_FOLDER = ".semmae"


def main_worktree() -> Path:
    """The main git worktree of the current folder: linked worktrees share its tracking database and scratch.

    Outside of a git repository it is the current folder itself.
    """
    return _main_worktree(os.getcwd())


@cache
def _main_worktree(folder: str) -> Path:
    command = ["git", "-C", folder, "rev-parse", "--path-format=absolute", "--git-common-dir"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return Path(folder).resolve()
    return Path(answer).parent


def state_folder() -> Path:
    """The git-ignored folder of what is neither input nor out and all worktrees share: scratch, slots, experiments."""
    return main_worktree() / STATE_FOLDER


def own_state() -> Path:
    """The same of this worktree alone: records of executions, logs."""
    return Path(STATE_FOLDER)
