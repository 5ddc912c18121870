"""DVC's own graph, asked in this process: what depends on what, what would run, and why."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.params import read_yaml
from jobs.dvc_lock import stage_entries
from pipeline.slots import CPU


@dataclass(frozen=True)
class Stage:
    """One job of dvc.yaml, as DVC names it; `upstream` are the jobs whose outs it reads.

    deps: paths under the root. params: file -> keys of the parameters that it depends on.
    """

    name: str
    upstream: tuple[str, ...]
    meta: Mapping[str, Any]
    command: str = ""
    deps: tuple[str, ...] = ()
    params: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """`gpu` or `cpu`, what it runs on where both are there."""
        return self.meta.get("device", CPU)


class Graph:
    """The jobs of the repository at `root` that `targets` need (all without any), upstream first.

    changes: name -> what DVC finds changed, for the jobs that would run for a reason of their own. digests: path -> MD5 of
    the inputs and outs that changed, as they are now. Raises ValueError for an unknown target or a dvc.yaml that DVC refuses.
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
                file = os.path.relpath(Path(root) / "dvc.yaml")
                wanted = [found for name in targets for found in repo.stage.collect(f"{file}:{name}")]
                starts = wanted if targets else repo.index.stages
                found = list(dict.fromkeys(node for start in starts for node in dfs_postorder_nodes(graph, start)))
                self.stages = {(one := _stage_of(stage, graph)).name: one for stage in found}
                with repo.lock:
                    status = {_name_of(stage): stage.status(check_updates=True) for stage in found}
                    self.digests = dict(_changed_digests(found, status))
        except LockError as error:
            raise ValueError(f"DVC is at work in {root}: {error}; wait for it, or run `semmae doctor`") from None
        except DvcException as error:
            reason = f" ({' '.join(str(error.__cause__).split())})" if error.__cause__ else ""
            raise ValueError(f"DVC: {' '.join(str(error).split())}{reason}") from None
        self.changes: dict[str, list[Any]] = {
            name: [change for changes in told.values() for change in changes] for name, told in status.items() if told
        }

    def affected(self) -> list[str]:
        """The jobs that would run or be restored: those with changes and all downstream of them."""
        found: set[str] = set()
        for name, stage in self.stages.items():
            if name in self.changes or found & set(stage.upstream):
                found.add(name)
        return [name for name in self.stages if name in found]


def _name_of(stage: Any) -> str:
    """As DVC prints it in the root folder, wherever the current folder is."""
    return getattr(stage, "name", None) or stage.path_in_repo


def _changed_digests(stages: Sequence[Any], status: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for stage in stages:
        changes = [change for told in status[_name_of(stage)].values() for change in told if isinstance(change, dict)]
        modified = {path for change in changes for told in change.values() for path in told if told[path] == "modified"}
        for entry in (*stage.deps, *stage.outs):
            if str(entry) in modified:
                yield str(entry), str(entry.get_hash().value)


def _stage_of(stage: Any, graph: Any) -> Stage:
    from dvc.dependency import ParamsDependency

    return Stage(
        _name_of(stage),
        upstream=tuple(_name_of(other) for other in graph.successors(stage)),
        meta=stage.meta or {},
        command=str(stage.cmd),
        deps=tuple(str(dep.def_path) for dep in stage.deps if not isinstance(dep, ParamsDependency)),
        params={str(dep.def_path): tuple(dep.params) for dep in stage.deps if isinstance(dep, ParamsDependency)},
    )


def explain(
    name: str,
    changes: Sequence[Any],
    entry: Mapping[str, Any] | None,
    root: Path = Path(),
    digests: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Lines that say what of a job's inputs changed, from what to what.

    changes: what DVC said of it. entry: the job in dvc.lock, None where it never ran. digests: those of its `Graph`.
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
            for path, told in found.items():
                if isinstance(told, dict):
                    yield from _parameters(name, path, told, entry, root)
                    continue
                old, new = recorded.get(path), (digests or {}).get(path)
                became = told if new is None else f"modified: {old[:12]} -> {new[:12]}" if old else f"new: {new[:12]}"
                yield f"{name}: {'output' if 'outs' in kind else kind_of(path)} {path} {became}"


def kind_of(path: str) -> str:
    """What a dependency is called."""
    return "code" if path.endswith(".py") else "input"


def _parameters(name: str, path: str, told: Mapping[str, str], entry: Mapping[str, Any], root: Path) -> Iterator[str]:
    """What became of parameters; DVC names a group, or single values."""
    before, now = entry.get("params", {}).get(path, {}), read_yaml(root / path)
    for key in told:
        old, new = leaves(before.get(key), key), leaves(value_of(now, key), key)
        for leaf in dict.fromkeys((*old, *new)):
            if old.get(leaf) != new.get(leaf):
                yield f"{name}: parameter {leaf}: {old.get(leaf, 'absent')} -> {new.get(leaf, 'absent')}"


def leaves(tree: Any, prefix: str) -> dict[str, Any]:
    """Dotted key -> value of every leaf; nothing for None."""
    if isinstance(tree, Mapping):
        return {key: value for name, part in tree.items() for key, value in leaves(part, f"{prefix}.{name}").items()}
    return {} if tree is None else {prefix: tree}


def value_of(tree: Any, key: str) -> Any:
    """What stands under a dotted key in nested mappings; None where nothing does."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree
