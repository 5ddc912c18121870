"""The content of a stage's MLflow run, read from dvc.lock and the outs: parameters, metrics, training history, data, pictures."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from config.presets import flatten
from config.redaction import redacted
from jobs.dvc_lock import is_code, other_outs
from shards.files import read_json
from shards.seals import mend

# Type of the data that a stage reads: DVC has them.
SOURCE_TYPE = "dvc"
# Metrics of an execution that was recorded.
SYSTEM, SYSTEM_METRICS = "system/", ("seconds", "cpu_seconds", "peak_mib", "images")
BATCH, PARAMS_IN_BATCH = 1000, 100


class Point(NamedTuple):
    """A value of a metric at a step."""

    key: str
    value: float
    step: int


@dataclass(frozen=True)
class Content:
    """Parameters, metrics, data and pictures of a run. data: (path, digest)."""

    params: Mapping[str, str] = field(default_factory=dict)
    points: Sequence[Point] = ()
    data: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Path] = ()


def content_of(entry: Mapping[str, Any], record: Mapping[str, Any] | None) -> Content:
    """What dvc.lock has of a stage (`entry`) and what its execution recorded.

    An out that is missing, or is not the one in dvc.lock, is a ValueError.
    """
    if gone := missing_outs(entry):
        raise ValueError(f"{gone[0]}: not found; `dvc pull` or `semmae run` brings it")
    if changed := other_outs(entry):
        # Its numbers would get the key of others.
        raise ValueError(f"{changed[0]}: damaged, or changed since dvc.lock recorded it; {mend(changed[0])}")
    points = [Point(metric, float(value), 0) for metric, value in _final_metrics(entry)]
    if record:
        points += [Point(f"{SYSTEM}{part}", float(record[part]), 0) for part in SYSTEM_METRICS if part in record]
    for row in _history(entry):
        points += training_points(row)
    data = [
        (redacted(dep["path"])[:500], dep["md5"][:36])
        for dep in entry.get("deps", [])
        if "md5" in dep and not is_code(dep["path"])
    ]
    params = params_of(entry.get("params", {}).get("params.yaml", {}))
    return Content(params, points, data, list(_pictures(entry)))


def missing_outs(entry: Mapping[str, Any]) -> list[Path]:
    """The outs of a stage whose content its run holds and that are not there: never pulled, or removed by a run that failed."""
    return [path for path in _outs(entry) if _is_read(path) and not path.exists()]


def write_content(client: Any, run_id: str, content: Content) -> None:
    """Write the content of a run."""
    from mlflow.entities import Dataset, DatasetInput, Param

    now = int(1000 * time.time())
    log_points(client, run_id, [(point, now) for point in content.points])
    params = [Param(name, value) for name, value in content.params.items()]
    for start in range(0, len(params), PARAMS_IN_BATCH):
        client.log_batch(run_id, params=params[start : start + PARAMS_IN_BATCH])
    if content.data:
        datasets = [
            Dataset(name=path, digest=digest, source_type=SOURCE_TYPE, source=path) for path, digest in content.data
        ]
        client.log_inputs(run_id, datasets=[DatasetInput(dataset) for dataset in datasets])
    for path in content.pictures:
        client.log_artifact(run_id, str(path))


def log_points(client: Any, run_id: str, points: Sequence[tuple[Point, int]]) -> None:
    """Log points, each with its time in milliseconds."""
    from mlflow.entities import Metric

    metrics = [Metric(point.key, point.value, time, point.step) for point, time in points]
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])


def lacking(client: Any, run_id: str, points: Sequence[tuple[Point, int]]) -> list[tuple[Point, int]]:
    """Those of the points, each with its time, that a run does not have.

    Differs: MLflow leaves out by itself what it has, at a minute for a thousand points.
    """
    known = {
        (key, one.step, one.timestamp)
        for key in {point.key for point, _ in points}
        for one in client.get_metric_history(run_id, key)
    }
    return [(point, time) for point, time in points if (point.key, point.step, time) not in known]


def training_points(row: Mapping[str, float]) -> list[Point]:
    """The points of a row of a training's history."""
    return [Point(f"training/{part}", float(row[part]), int(row["step"])) for part in row if part != "step"]


def params_of(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Nested parameters as MLflow has them: texts under dotted names."""
    return {name: redacted(str(value))[:6000] for name, value in flatten(parameters)}


def _outs(entry: Mapping[str, Any]) -> list[Path]:
    return [Path(out["path"]) for out in entry.get("outs", [])]


def _is_read(path: Path) -> bool:
    return _holds_metrics(path) or path.parts[0] in ("history", "report")


def _holds_metrics(path: Path) -> bool:
    return path.suffix == ".json" and (path.parts[0] == "metrics" or path.name == "metrics.json")


def _final_metrics(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for path in _outs(entry):
        if _holds_metrics(path):
            yield from sorted(read_json(path).items())


def _history(entry: Mapping[str, Any]) -> Iterator[dict[str, float]]:
    for path in _outs(entry):
        if path.parts[0] == "history":
            yield from read_json(path)


def _pictures(entry: Mapping[str, Any]) -> Iterator[Path]:
    for path in _outs(entry):
        if path.name == "figures":
            yield from sorted(path.iterdir())
