"""DVC's graph of stages: what depends on what, what would run, and why."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from config.names import did_you_mean
from config.params import read_yaml
from config.presets import flatten
from jobs.dvc_lock import is_code, stage_entries
from pipeline.slots import CPU
from pipeline.worktree import cache_of
from shards.files import md5_of, read_json


@dataclass(frozen=True)
class Stage:
    """A stage as DVC names it, an item of a matrix included; `upstream` are the stages whose outs it reads.

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
        """`gpu` or `cpu`: where it runs on a machine that has both."""
        return self.meta.get("device", CPU)


class Graph:
    """The stages of the repository at `root` that `targets` need (all by default), upstream first.

    changes: stage -> what DVC finds changed, for stages that would run for a reason of their own. digests: path -> current
    MD5 of changed inputs and outs. entries: those of dvc.lock. wait: wait for a lock of another DVC. Raises ValueError for an
    unknown target, a dvc.yaml that DVC refuses, and, unless it waits, when another DVC is at work.
    """

    def __init__(self, root: str | Path = ".", targets: Sequence[str] = (), *, wait: bool = False) -> None:
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.repo import Repo
        from networkx import dfs_postorder_nodes

        self.root, self.entries = Path(root), stage_entries(Path(root) / "dvc.lock")
        try:
            with Repo(str(root), _wait_for_lock=wait) as repo:
                graph = repo.index.graph
                wanted = list(_wanted(repo, targets))
                starts = wanted if targets else repo.index.stages
                nodes = list(dict.fromkeys(node for start in starts for node in dfs_postorder_nodes(graph, start)))
                self.stages = {(stage := _stage_of(node, graph)).name: stage for node in nodes}
                with repo.lock:
                    status = {_name_of(node): node.status(check_updates=True) for node in nodes}
                    self.digests = dict(_changed_digests(nodes, status))
        except LockError as error:
            raise ValueError(f"DVC is at work in {root}: {error}; wait for it, or run `semmae doctor`") from None
        except DvcException as error:
            reason = f" ({' '.join(str(error.__cause__).split())})" if error.__cause__ else ""
            raise ValueError(f"DVC: {' '.join(str(error).split())}{reason}") from None
        self.changes = {name: list(chain(*answer.values())) for name, answer in status.items() if answer}

    def affected(self) -> list[str]:
        """The stages that would run or be restored: those with changes and all downstream of them."""
        affected: set[str] = set()
        for name, stage in self.stages.items():
            if name in self.changes or affected & set(stage.upstream):
                affected.add(name)
        return [name for name in self.stages if name in affected]

    def explain(self, name: str) -> Iterator[str]:
        """Lines that say which inputs of a stage changed, from what to what."""
        return explain(name, self.changes.get(name, []), self.entries.get(name), self.root, self.digests)


def _wanted(repo: Any, targets: Sequence[str]) -> Iterator[Any]:
    """The stages of each target, which names one, or all of a matrix."""
    from dvc.stage.exceptions import StageNotFound

    file = os.path.relpath(Path(repo.root_dir) / "dvc.yaml")
    for target in targets:
        try:
            yield from repo.stage.collect(f"{file}:{target}")
        except StageNotFound:
            names = [_name_of(stage) for stage in repo.index.stages]
            near = did_you_mean(target, [*names, *(name.partition("@")[0] for name in names)])
            raise ValueError(f"{target}: no such stage{near}; `dvc stage list` names them") from None


def _name_of(stage: Any) -> str:
    """The name that DVC prints in the root folder, whatever the current folder is."""
    return getattr(stage, "name", None) or stage.path_in_repo


def _changed_digests(stages: Sequence[Any], status: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for stage in stages:
        changes = [one for changes in status[_name_of(stage)].values() for one in changes if isinstance(one, dict)]
        modified = {path for one in changes for states in one.values() for path in states if states[path] == "modified"}
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
    """Lines that say which inputs of a stage changed, from what to what.

    changes: DVC's answer. entry: the stage in dvc.lock, None if it never ran. digests: those of its `Graph`.
    """
    if entry is None:
        yield f"{name}: never ran here, or dvc.lock does not know it"
        return
    recorded = {dep["path"]: dep.get("md5", "?") for dep in (*entry.get("deps", ()), *entry.get("outs", ()))}
    for change in changes:
        if isinstance(change, str):
            yield f"{name}: {change}"
            continue
        for place, states in change.items():
            for path, state in states.items():
                if isinstance(state, dict):
                    yield from (f"{name}: {line}" for line in _parameters(path, state, entry, root))
                    continue
                old, new = recorded.get(path), (digests or {}).get(path)
                if old and new and "outs" not in place:
                    for file, was, became in changed_inputs(path, old, new, root):
                        yield f"{name}: {kind_of(file)} {file} modified: {was} -> {became}"
                    continue
                became = state if new is None else f"modified: {old[:12]} -> {new[:12]}" if old else f"new: {new[:12]}"
                yield f"{name}: {'output' if 'outs' in place else kind_of(path)} {path} {became}"


def kind_of(path: str) -> str:
    """What a dependency is called."""
    return "code" if is_code(path) else "input"


def changed_inputs(path: str, old: str, new: str, root: Path = Path()) -> Iterator[tuple[str, str, str]]:
    """(path, old, new), 12 digits of each: of a dependency, or of the files that changed in a `code/STAGE.json`.

    old, new: MD5 of the dependency. The files are known if the tree or DVC's cache has both versions.
    """
    before, after = _digests_in(path, old, root), _digests_in(path, new, root)
    if not before or not after:
        before, after = {path: old}, {path: new}
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield name, before.get(name, "absent")[:12], after.get(name, "absent")[:12]


def _digests_in(path: str, md5: str, root: Path) -> dict[str, str]:
    if path.startswith("code/"):
        for copy in (root / path, Path(cache_of(root.resolve()), "files", "md5", md5[:2], md5[2:])):
            if copy.is_file() and md5_of(copy) == md5:
                return read_json(copy)
    return {}


def _parameters(path: str, keys: Iterable[str], entry: Mapping[str, Any], root: Path) -> Iterator[str]:
    """Lines for changed parameters; DVC names a group, or single values."""
    before, now = entry.get("params", {}).get(path, {}), read_yaml(root / path)
    for key in keys:
        yield from changed_leaves(before.get(key), value_of(now, key), key)


def changed_leaves(before: Any, after: Any, prefix: str) -> Iterator[str]:
    """A line for each leaf under `prefix` that differs between two trees of parameters."""
    old, new = leaves(before, prefix), leaves(after, prefix)
    for leaf in dict.fromkeys((*old, *new)):
        if old.get(leaf) != new.get(leaf):
            yield f"parameter {leaf}: {old.get(leaf, 'absent')} -> {new.get(leaf, 'absent')}"


def leaves(tree: Any, prefix: str) -> dict[str, Any]:
    """Dotted key -> value of every leaf; empty for None."""
    every = flatten(tree, f"{prefix}." if prefix else "") if isinstance(tree, Mapping) else [(prefix, tree)]
    return {key: value for key, value in every if value is not None}


def value_of(tree: Any, key: str) -> Any:
    """The value under a dotted key in nested mappings; None if there is none."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree
