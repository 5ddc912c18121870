"""The folders in which pipelines run."""

from pathlib import Path

from jobs.state import main_worktree
from pipeline.experiments import worktrees


def trees() -> dict[Path, str]:
    """The main worktree, the current folder and the worktrees of experiments, each with the name of its experiment."""
    names = {main_worktree().resolve(): "", Path.cwd(): ""}
    names |= {folder.resolve(): folder.name for folder in worktrees()}
    return {tree: name for tree, name in names.items() if (tree / ".dvc").is_dir()}
