"""Why a stage would run, and why it ran the last time."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from config.names import did_you_mean
from config.params import load_params, load_runtime
from jobs.cluster.work import Task
from jobs.kept_shards import folder_of, why_missing
from jobs.notes import read_note
from pipeline.graph import Graph, changed_inputs, changed_leaves, kind_of
from pipeline.tracking.executions import executions, records_folder


def lines_about(stage: str, root: Path = Path()) -> list[str]:
    """What changed for `stage` since its result was recorded; if nothing did, why it ran the last time.

    Of a stage that streams over image shards also how many it would compute, or did. Raises ValueError for an unknown stage.
    """
    graph = Graph(root, [stage])
    if stage not in graph.stages:
        raise ValueError(f"{stage}: no such stage{did_you_mean(stage, graph.stages)}; `dvc stage list` names them")
    entry, lines = graph.entries.get(stage), []
    if stage in graph.changes or entry is None:
        lines += [f"would run: {line}" for line in graph.explain(stage)]
    for name in graph.affected():
        if name != stage and name in graph.changes:
            lines += [f"upstream would run: {line}" for line in graph.explain(name)]
    if lines:
        return [*lines, *_reuse(stage, graph)]
    noted = read_note(root / executions() / f"{stage}.json")
    # The record of an execution that `dvc repro` started is newer, until a replay writes it.
    record = {**noted, **read_note(root / records_folder() / f"{stage}.json")}
    reuse = [f"{stage}: in its last run {record['reuse']}"] if "reuse" in record else []
    if "previous" not in noted:
        return [f"{stage}: would not run; why it ran the last time is not recorded here", *reuse]
    if noted["entry"] != json.loads(json.dumps(entry)):
        return [f"{stage}: would not run; its outs were restored from the cache, and not computed by its last run"]
    if not noted["previous"]:
        return [f"{stage}: would not run; it ran the last time because it had never run here", *reuse]
    reasons = list(differences(noted["previous"], noted["entry"], root)) or ["forced, or its outs were missing"]
    return [*(f"would not run; it ran the last time: {line}" for line in reasons), *reuse]


def _reuse(stage: str, graph: Graph) -> Iterator[str]:
    """A line on the shards that a streaming stage would compute, and those of earlier runs that it would link instead."""
    if not graph.stages[stage].meta.get("sharded"):
        return
    # The plan has the digests of the code as it is.
    affected = (set(graph.affected()) & set(graph.stages[stage].upstream)) - {"digest_code"}
    if "prepare_data" in affected:
        yield f"{stage}: how many shards it would compute is known after `dvc repro prepare_data`"
        return
    with contextlib.chdir(graph.root):
        try:
            job, tasks = _plan(stage)
        except (ValueError, OSError) as error:
            yield f"{stage}: how many shards it would compute is not known: {error}"
            return
        folder = folder_of(stage, job)
        missing = sum(not (folder / task.key).is_dir() for task in tasks)
        why = f"; {why_missing(folder)}" if missing else ""
    unless = f"; unless {' or '.join(sorted(affected))} gives something new" if affected else ""
    yield f"{stage}: would compute {missing} of {len(tasks)} shards and reuse {len(tasks) - missing}{why}{unless}"


def _plan(stage: str) -> tuple[str, Sequence[Task]]:
    # With torch, whose import takes seconds.
    from stages import cache_masks, extract_attention
    from training.compute import device_type

    params, plans = load_params(), {"extract_attention": extract_attention.plan, "cache_masks": cache_masks.plan}
    return plans[stage](params, device_type(params.compute.device, elsewhere=load_runtime().engine == "ray"))


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
