"""DVC's own graph, asked in this process: what depends on what, what would run, and why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.params import read_yaml
from pipeline.slots import CPU


@dataclass(frozen=True)
class Stage:
    """One job of dvc.yaml, as DVC names it; `upstream` are the jobs whose outs it reads."""

    name: str
    upstream: tuple[str, ...]
    meta: Mapping[str, Any]

    @property
    def device(self) -> str:
        """`gpu` or `cpu`, what it runs on where both are there."""
        return self.meta.get("device", CPU)


class Graph:
    """The jobs of the repository at `root` that `targets` need (all without any), upstream first.

    changes: name -> what DVC finds changed, for the jobs that would run for a reason of their own. Raises ValueError for
    an unknown target or a dvc.yaml that DVC refuses.
    """

    def __init__(self, root: str | Path = ".", targets: Sequence[str] = ()) -> None:
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.repo import Repo
        from networkx import dfs_postorder_nodes

        stage_entries(Path(root) / "dvc.lock")
        try:
            with Repo(str(root)) as repo:
                graph = repo.index.graph
                starts = [found for name in targets or [None] for found in repo.stage.collect(name)]
                found = list(dict.fromkeys(node for start in starts for node in dfs_postorder_nodes(graph, start)))
                self.stages = {
                    stage.addressing: Stage(
                        stage.addressing, tuple(other.addressing for other in graph.successors(stage)), stage.meta or {}
                    )
                    for stage in found
                }
                with repo.lock:
                    status = {name: told for stage in found for name, told in stage.status(check_updates=True).items()}
        except LockError as error:
            raise ValueError(f"DVC is at work in {root}: {error}; wait for it, or run `semmae doctor`") from None
        except DvcException as error:
            raise ValueError(f"DVC: {error}") from None
        self.changes: dict[str, list[Any]] = {name: list(told) for name, told in status.items()}

    def affected(self) -> list[str]:
        """The jobs that would run or be restored: those with changes and all downstream of them."""
        found: set[str] = set()
        for name, stage in self.stages.items():
            if name in self.changes or found & set(stage.upstream):
                found.add(name)
        return [name for name in self.stages if name in found]


def stage_entries(lock_file: Path) -> dict[str, Mapping[str, Any]]:
    """The stages of dvc.lock by name; an absent file has none, a damaged one is a ValueError."""
    if not lock_file.is_file():
        return {}
    document = read_yaml(lock_file)
    if not isinstance(document, dict) or not isinstance(document.get("stages"), dict):
        raise ValueError(f"{lock_file}: damaged; delete it, `dvc repro` restores it from the run cache")
    return document["stages"]


def explain(name: str, changes: Sequence[Any], entry: Mapping[str, Any] | None, root: Path = Path()) -> Iterator[str]:
    """Lines that say what of a job's inputs changed, from what to what.

    changes: what DVC said of it. entry: the job in dvc.lock, None where it never ran.
    """
    if entry is None:
        yield f"{name}: it never ran here, or dvc.lock does not know it"
        return
    recorded = {dep["path"]: dep.get("md5", "?") for dep in (*entry.get("deps", ()), *entry.get("outs", ()))}
    for change in changes:
        if isinstance(change, str):
            yield f"{name}: {change}"
            continue
        for kind, found in change.items():
            what = kind.removeprefix("changed ").removesuffix("s")
            for path, told in found.items():
                if isinstance(told, dict):
                    yield from _parameters(name, path, told, entry, root)
                else:
                    yield f"{name}: {what} {path} {told} (was {recorded.get(path, 'unknown')[:12]})"


def _parameters(name: str, path: str, told: Mapping[str, str], entry: Mapping[str, Any], root: Path) -> Iterator[str]:
    """What became of parameters; DVC names a group, or single values."""
    before, now = entry.get("params", {}).get(path, {}), read_yaml(root / path)
    for key in told:
        old, new = leaves(before.get(key), key), leaves(_get(now, key), key)
        for leaf in dict.fromkeys((*old, *new)):
            if old.get(leaf) != new.get(leaf):
                yield f"{name}: parameter {leaf}: {old.get(leaf, 'absent')} -> {new.get(leaf, 'absent')}"


def leaves(tree: Any, prefix: str) -> dict[str, Any]:
    """Dotted key -> value of every leaf; nothing for None."""
    if isinstance(tree, Mapping):
        return {key: value for name, part in tree.items() for key, value in leaves(part, f"{prefix}.{name}").items()}
    return {} if tree is None else {prefix: tree}


def _get(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree
