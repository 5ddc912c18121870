"""A git worktree that holds the user's tree as it lies, with other parameters and DVC's cache shared."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from config.presets import write_params
from jobs.code import ROOMS
from jobs.git import git
from jobs.state import main_worktree
from shards.files import write_text

# Files in these folders are code, also while git does not know them.
CODE_FOLDERS = (*ROOMS, "presets")


def make(folder: Path, document: Any, preset: str) -> None:
    """Make the worktree `folder` of the tree that the current folder is in, with the parameters of `document`."""
    here = Path(git("rev-parse", "--show-toplevel"))
    if here != Path.cwd().resolve():
        raise ValueError(
            f"{Path.cwd()}: in the repository of {here}; experiments need one of their own: `git init` here"
        )
    if not git("rev-list", "--all", "--max-count=1"):
        raise ValueError(f"{here}: has no commit to start an experiment from; `git add -A && git commit -m start`")
    folder.parent.mkdir(parents=True, exist_ok=True)
    discard(folder)
    _own_main_worktree()
    git("worktree", "add", "--quiet", "--detach", str(folder), "HEAD")
    if uncommitted := _uncommitted(here):
        # The files of the working tree, as changes over the commit: an experiment is compared with that.
        git("read-tree", "-m", "-u", "HEAD", uncommitted, folder=folder)
    for path in untracked_code(here):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(here / path, folder / path)
    if (here / "dvc.lock").is_file():
        shutil.copyfile(here / "dvc.lock", folder / "dvc.lock")
    write_params(document, folder / "params.yaml", preset=preset)
    write_text(folder / ".dvc" / "config.local", f'[cache]\n    dir = "{cache_of(here)}"\n')
    _link_inputs(folder, here, str(document["data"]["path"]))


def _own_main_worktree() -> None:
    """Move `core.worktree`, which a submodule has, into the main worktree's own settings: DVC's library takes it for all."""
    main = main_worktree()
    if apart := git("config", "--local", "--default=", "--get", "core.worktree", folder=main):
        git("config", "extensions.worktreeConfig", "true", folder=main)
        git("config", "--worktree", "core.worktree", apart, folder=main)
        git("config", "--local", "--unset", "core.worktree", folder=main)


def discard(folder: Path) -> None:
    """Remove a worktree, also one that is half made."""
    if folder.exists():
        # Removes links, and not what they lead to.
        shutil.rmtree(folder)
    git("worktree", "prune")


def restore(folder: Path) -> None:
    """Check out every out of dvc.lock that the cache has, so that a walk runs only what changed."""
    if not (folder / "dvc.lock").is_file():
        return
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "checkout", "--quiet", "--allow-missing", "--force"]
    subprocess.run(command, cwd=folder, capture_output=True, check=False)


def untracked_code(root: Path) -> list[str]:
    """Code files of a tree that git does not know yet."""
    folders = [name for name in CODE_FOLDERS if (root / name).is_dir()]
    listed = git("ls-files", "--others", "--exclude-standard", "-z", "--", *folders, folder=root) if folders else ""
    return [path for path in listed.split("\0") if path]


def _uncommitted(root: Path) -> str:
    """A commit of the tracked files as they lie in `root`, which itself does not change; empty if they equal HEAD."""
    # `stash` ends with 1 and no word if files were only touched; what differs after this does so in content.
    git("update-index", "-q", "--refresh", folder=root)
    return git("stash", "create", folder=root)


@cache
def cache_of(root: Path) -> str:
    """The folder of DVC's cache for the tree at `root`, an absolute path."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return repo.cache.local_cache_dir


def _link_inputs(folder: Path, here: Path, images: str) -> None:
    """Link the inputs that git does not have from `here` into the worktree: images, checkpoints, listings."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        outs = {Path(out.def_path) for out in repo.index.outs}
        deps = {os.path.normpath(dep.def_path) for dep in repo.index.deps}
    for dep in map(Path, sorted({*deps, os.path.normpath(images)})):
        path, target = (Path(os.path.normpath(root / dep)) for root in (here, folder))
        is_out = any(dep == out or out in dep.parents or dep in out.parents for out in outs)
        if is_out or not path.exists() or path.resolve() == target.resolve():
            continue
        if not target.is_relative_to(folder) and (target.exists() or not target.is_relative_to(folder.parent)):
            raise ValueError(f"{dep}: leads out of the repository, to another place from a worktree; use {path}")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
