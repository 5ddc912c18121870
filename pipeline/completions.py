"""What a shell completes the words of `semmae` to: read from files, without DVC, for a shell asks at every key."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def _or_nothing(names: Callable[[], Iterable[str]]) -> Callable[[], list[str]]:
    """The same, and nothing in a folder whose files cannot be read: a shell has no place for a message."""

    def complete() -> list[str]:
        try:
            return list(names())
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return []

    return complete


@_or_nothing
def arms() -> Iterable[str]:
    """The arms that params.yaml defines."""
    return [name for name, arm in _params()["arms"].items() if isinstance(arm, dict)]


@_or_nothing
def changes() -> Iterable[str]:
    """Every parameter of params.yaml with its value, as `--set` takes it."""
    from pipeline.graph import leaves

    return [f"{key}={value}" for key, value in leaves(_params(), "").items()]


@_or_nothing
def presets() -> Iterable[str]:
    """All presets."""
    from config.presets import preset_names

    return preset_names()


@_or_nothing
def stages() -> Iterable[str]:
    """The stages of dvc.yaml, and those with a matrix also one by one."""
    from config.params import read_yaml
    from jobs.dvc_lock import stage_names

    every = read_yaml("dvc.yaml")["stages"]
    return dict.fromkeys((*every, *stage_names(every, _params())))


def _params() -> Any:
    from config.params import read_yaml

    return read_yaml("params.yaml")


@_or_nothing
def experiments() -> Iterable[str]:
    """The experiments that have a worktree."""
    from pipeline.experiments import worktrees

    return [folder.name for folder in worktrees()]


@_or_nothing
def jobs() -> Iterable[str]:
    """The runs that are pretrained, as ARM-SEED."""
    return [path.name for path in Path("pretrained").iterdir()]
