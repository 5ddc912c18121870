"""Why a stage would run, and why it ran the last time."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.notes import read_note
from pipeline.graph import Graph, changed_inputs, changed_leaves, kind_of
from pipeline.tracking.executions import executions


def lines_about(stage: str, root: Path = Path()) -> list[str]:
    """What changed for `stage` since its result was recorded; if nothing did, why it ran the last time.

    Raises ValueError for an unknown stage.
    """
    graph = Graph(root, [stage])
    if stage not in graph.stages:
        raise ValueError(f"{stage}: no such stage; `dvc stage list` names them")
    entry, lines = graph.entries.get(stage), []
    if stage in graph.changes or entry is None:
        lines += [f"would run: {line}" for line in graph.explain(stage)]
    for name in graph.affected():
        if name != stage and name in graph.changes:
            lines += [f"upstream would run: {line}" for line in graph.explain(name)]
    if lines:
        return lines
    noted = read_note(root / executions() / f"{stage}.json")
    if "previous" not in noted:
        return [f"{stage}: would not run; why it ran the last time is not recorded here"]
    if noted["entry"] != json.loads(json.dumps(entry)):
        return [f"{stage}: would not run; its outs were restored from the cache, and not computed by its last run"]
    if not noted["previous"]:
        return [f"{stage}: would not run; it ran the last time because it had never run here"]
    reasons = list(differences(noted["previous"], noted["entry"], root))
    return [f"would not run; it ran the last time: {line}" for line in reasons or ["forced, or its outs were missing"]]


def differences(before: Mapping[str, Any], after: Mapping[str, Any], root: Path = Path()) -> Iterator[str]:
    """Lines that say in what two entries of dvc.lock differ, except for outs."""
    if before.get("cmd") != after.get("cmd"):
        yield f"command: {before.get('cmd')} -> {after.get('cmd')}"
    old, new = ({dep["path"]: dep.get("md5", "?") for dep in entry.get("deps", ())} for entry in (before, after))
    for path in dict.fromkeys((*old, *new)):
        if old.get(path) != new.get(path):
            for name, was, became in changed_inputs(path, old.get(path, "absent"), new.get(path, "absent"), root):
                yield f"{kind_of(name)} {name}: {was} -> {became}"
    for file in dict.fromkeys((*before.get("params", {}), *after.get("params", {}))):
        old, new = (entry.get("params", {}).get(file, {}) for entry in (before, after))
        yield from changed_leaves(old, new, "")
