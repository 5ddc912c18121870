"""What a replay writes into an MLflow run, and the digest of it that goes along: a database has no checksum of a value.

The digest is taken over what is sent, with what the server made of the new run, so that it costs no reading and no write
of its own. `pipeline.tracking.run_damage` takes it again over what a local database holds. What people add in MLflow's pages
(tags, notes, another name) is not in it.
"""

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Of a run: the digest of its content, and the id of the run of the pipeline that it belongs to.
CONTENT_TAG = "semmae.content"
KEY_TAG, PIPELINE_TAG, WRITER_TAG, COMPUTED_TAG = "fingerprint", "semmae.pipeline", "semmae.writer", "computed_by"
PARENT_TAG = "mlflow.parentRunId"
# Every other tag that a replay writes; of these alone it is known what they should say.
TAGS = frozenset((
    KEY_TAG, PIPELINE_TAG, WRITER_TAG, COMPUTED_TAG, PARENT_TAG, "git_commit", "git_dirty", "dvc_experiment", "preset",
    "stage", "cache_hit", "arm", "seed", "set", "threads", "device", "precision", "torch", "slot",
))  # fmt: skip
BATCH, PARAMS_IN_BATCH = 1000, 100


class Point(NamedTuple):
    """A value of a metric; timestamp: milliseconds."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True)
class Content:
    """Parameters, metrics and data of a run; datasets: MLflow's `Dataset`."""

    params: Mapping[str, str] = field(default_factory=dict)
    points: Sequence[Point] = ()
    datasets: Sequence[Any] = ()


def write_content(client: Any, run: Any, content: Content, status: str, ended: int) -> None:
    """Write it into a new run, with the digest; the run is to end as `status` at `ended` (milliseconds)."""
    from mlflow.entities import DatasetInput, Metric, Param, RunTag

    run_id = run.info.run_id
    metrics = [Metric(*point) for point in content.points]
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])
    params = [Param(name, value) for name, value in content.params.items()]
    digest = digest_of(run, content, status, ended)
    tags = [RunTag(CONTENT_TAG, f"{digest} {run.data.tags.get(PARENT_TAG, run_id)}")]
    for start in range(0, max(1, len(params)), PARAMS_IN_BATCH):
        client.log_batch(run_id, params=params[start : start + PARAMS_IN_BATCH], tags=[] if start else tags)
    if content.datasets:
        client.log_inputs(run_id, datasets=[DatasetInput(dataset) for dataset in content.datasets])


def digest_of(run: Any, content: Content, status: str, ended: int) -> str:
    """The digest of an MLflow run with this content, of its known tags, and of what else MLflow shows of it."""
    info = run.info
    tags = {name: value for name, value in run.data.tags.items() if name in TAGS}
    datasets = {
        tuple(text or "" for text in (data.name, data.digest, data.source_type, data.source, data.schema, data.profile))
        for data in content.datasets
    }
    document = [
        [str(info.experiment_id), info.artifact_uri, info.user_id, info.start_time, ended, status],
        sorted(tags.items()), sorted(content.params.items()), sorted({_stored(point) for point in content.points}),
        sorted(datasets),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:32]


def _stored(point: Point) -> tuple[str, str, int, int]:
    """A point as a database gives it back: MLflow bounds what is infinite, and SQLite knows no negative zero."""
    value = point.value if math.isnan(point.value) else max(-sys.float_info.max, min(sys.float_info.max, point.value))
    return point.key, repr(float(value) + 0.0), point.timestamp, point.step
