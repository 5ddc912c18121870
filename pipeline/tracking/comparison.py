"""The runs of the state that is checked out, compared with what a replay of it would write, through MLflow's client alone.

SQLite's own check finds a damaged structure and damaged indices, but not a value that became another. Where the outs of
a stage are there, dvc.lock and they tell what its run holds. Whatever else a run has is ignored: notes, tags and names that
people gave it, descriptions, tags of an earlier version, and times and system metrics, which only the execution knew.
"""

import math
from collections.abc import Mapping
from typing import Any

from config.redaction import MARK
from jobs.dvc_lock import other_outs
from pipeline.tracking.client import FINISHED, RUNNING
from pipeline.tracking.keys import COMPARISON_STAGE, State
from pipeline.tracking.stage_runs import SOURCE_TYPE, Content, content_of
from pipeline.tracking.tags import (
    KEY_TAG,
    OF_STATE,
    PARENT_TAG,
    PIPELINE_TAG,
    WRITER_TAG,
    Tagged,
    origin_here,
    tags_of,
)
from pipeline.tracking.writer import Replayed


def differing_runs(runs: Mapping[str, Any], state: State, noted: Replayed | None) -> list[str]:
    """Names of the runs of this state whose content is not that of the current folder.

    runs: id -> run, all that are not deleted. noted: what the last replay wrote, if that was this state.
    """
    origin, names = origin_here(), {key: name for name, key in state.keys.items()}
    runs = {run_id: run for run_id, run in runs.items() if run.info.status != RUNNING and WRITER_TAG in run.data.tags}
    tops = {run_id for run_id, run in runs.items() if run.data.tags.get(PIPELINE_TAG) == state.key}
    # A damaged tag hides a run from a search by this tag, and not from one by its id.
    tops |= {noted.pipeline} & runs.keys() if noted else set()
    headline = _headline(state)
    differing = [
        runs[top].info.run_name
        for top in tops
        if not _agrees(runs[top], Tagged(origin, state=state.key)) or not _has_headline(runs[top], headline)
    ]
    for run_id, run in runs.items():
        parent = run.data.tags.get(PARENT_TAG, "")
        if noted and run_id in noted.runs.values():
            parent = noted.pipeline
        if parent not in tops:
            continue
        name = names.get(run.data.tags.get(KEY_TAG, ""))
        entry = state.entries[name] if name else {}
        if not name or not _agrees(run, Tagged(origin, name, entry, parent=parent)) or not _is_content_of(run, entry):
            differing.append(run.info.run_name)
    return differing


def _agrees(run: Any, expected: Tagged) -> bool:
    """Whether a run is finished and has the tags of its state. One without a tag is of a version that did not write it."""
    tags = tags_of(expected, OF_STATE)
    is_finished = run.info.status == FINISHED
    return is_finished and all(_is_same(run.data.tags.get(name, value), value) for name, value in tags.items())


def _headline(state: State) -> dict[str, float]:
    """The headline metrics of a state; empty if its report is gone or has changed, so that there is nothing to compare with."""
    from pipeline.tracking.headline import headline_points

    entry = state.entries.get(COMPARISON_STAGE)
    try:
        return {} if entry is None or other_outs(entry) else {point.key: point.value for point in headline_points()}
    except (ValueError, OSError):
        return {}


def _has_headline(run: Any, headline: Mapping[str, float]) -> bool:
    """Whether the headline metrics of a run are right. One that it lacks is of a version that did not write it."""
    metrics = run.data.metrics
    return all(_is_close(metrics.get(name, value), value) for name, value in headline.items())


def _is_content_of(run: Any, entry: Mapping[str, Any]) -> bool:
    try:
        content = content_of(entry, None)
    except (ValueError, OSError):
        # An out is gone or has changed, so there is nothing to compare with; whoever reads that out names it.
        return True
    params, metrics = run.data.params, run.data.metrics
    data = {(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs}
    sources = {(one.dataset.source_type, one.dataset.source) for one in run.inputs.dataset_inputs}
    return (
        all(name in params and _is_same(params[name], value) for name, value in content.params.items())
        and all(name in metrics and _is_close(metrics[name], value) for name, value in _last(content).items())
        and data >= set(content.data)
        and sources >= {(SOURCE_TYPE, path) for path, _ in content.data}
    )


def _last(content: Content) -> dict[str, float]:
    """The latest value of each metric."""
    return {point.key: point.value for point in sorted(content.points, key=lambda point: (point.step, point.value))}


def _is_same(text: str, expected: str) -> bool:
    # What counts as a secret depends on the environment of whoever writes.
    return text == expected or MARK in text or MARK in expected


def _is_close(value: float, expected: float) -> bool:
    """Whether a metric is the expected one; MLflow bounds an infinite one."""
    if math.isinf(expected):
        return math.isinf(value) or abs(value) > 1e308
    return value == expected or (math.isnan(value) and math.isnan(expected))
