"""The two folders that live outside DVC's outs: of this worktree alone, and shared by all worktrees of the repository."""

import contextlib
import os
from functools import cache
from pathlib import Path

from jobs.git import git

STATE_FOLDER, WORKTREES = ".semmae", "worktrees"


def main_worktree() -> Path:
    """The main git worktree of the current folder: linked worktrees share its tracking database and scratch.

    An experiment's is the worktree in whose state folder it lies. A worktree is its own where git knows no main one, as in a
    bare repository; outside of git it is the current folder itself.
    """
    return _main_worktree(os.getcwd())


@cache
def _main_worktree(folder: str) -> Path:
    here = Path(folder).resolve()
    for parent in here.parents:
        if parent.parts[-2:] == (STATE_FOLDER, WORKTREES):
            return _main_worktree(str(parent.parent.parent))
    try:
        top, own, shared = _places(here)
    except ValueError:
        return here
    if own == shared:
        # A repository of DVC may be a folder of a larger one of git.
        return next((up for up in (here, *here.parents) if up.is_relative_to(top) and (up / ".dvc").is_dir()), top)
    # A submodule's folder of git lies elsewhere, and names its worktree.
    for asked in (shared, shared.parent):
        with contextlib.suppress(ValueError):
            main, *folders = _places(asked)
            if folders == [shared, shared]:
                return main
    return top


def _places(folder: Path) -> list[Path]:
    """The git worktree that `folder` lies in, its own folder of git, and the one that it shares with linked worktrees."""
    words = ("--show-toplevel", "--git-dir", "--git-common-dir")
    return list(map(Path, git("rev-parse", "--path-format=absolute", *words, folder=folder).splitlines()))


def state_folder() -> Path:
    """The git-ignored folder of what is neither input nor out and all worktrees share: scratch, slots, experiments."""
    return main_worktree() / STATE_FOLDER


def own_state() -> Path:
    """The same of this worktree alone: records of executions, logs."""
    return Path(STATE_FOLDER)
