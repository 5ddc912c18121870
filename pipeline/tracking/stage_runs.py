"""What MLflow is told of one stage: parameters, final metrics, training history, data, pictures, tags."""

import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from config.redaction import redacted
from jobs.dvc_lock import other_outs
from pipeline.tracking.run_contents import Content, Point, write_content
from shards.files import read_json
from shards.seals import mend

# Of the data that a stage reads: DVC has them.
SOURCE_TYPE = "dvc"
# Of an execution that was recorded: as metrics, and as tags.
SYSTEM_METRICS = ("seconds", "cpu_seconds", "peak_mib", "images")
SYSTEM_TAGS = ("device", "precision", "torch", "slot")


def tags_of(name: str, record: Mapping[str, Any] | None, entry: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Stage, arm and seed from a stage's name, threads from its `entry` of dvc.lock, the rest from its record."""
    stage, _, item = name.partition("@")
    tags = {"stage": stage, "cache_hit": str(record is None).lower()}
    match = re.fullmatch(r"(?:(?P<set>[^-]+)-)?(?P<arm>\w+?)-(?P<seed>\d+)|(?P<only>\w+)", item)
    if match and stage not in ("generate_creatures", "evaluate_parts", "prepare_transfer", "prepare_segment"):
        found = match.groupdict()
        tags |= {name: value for name in ("arm", "seed", "set") if (value := found[name])}
        if found["only"]:
            tags["arm"] = found["only"]
    threads = (entry or {}).get("params", {}).get("params.yaml", {}).get("compute.threads")
    if threads is not None:
        tags["threads"] = str(threads)
    if record:
        tags |= {name: str(record[name]) for name in SYSTEM_TAGS if record.get(name)}
    return tags


def git_tags() -> dict[str, str]:
    """The commit of the current folder, and whether tracked files differ from it."""
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return {"git_commit": _git("rev-parse", "HEAD"), "git_dirty": str(dirty).lower()}


def _git(*words: str) -> str:
    answer = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def log_stage(
    client: Any, run: Any, entry: Mapping[str, Any], record: Mapping[str, Any] | None, status: str, ended: int
) -> None:
    """Write what DVC recorded of a stage (`entry` of dvc.lock) and what its execution noted into its new run.

    The run is to end as `status` at `ended`. An out that is there and is not what DVC recorded is a ValueError.
    """
    write_content(client, run, _content_of(entry, record), status, ended)
    for path in _pictures(entry):
        client.log_artifact(run.info.run_id, str(path))


def _content_of(entry: Mapping[str, Any], record: Mapping[str, Any] | None) -> Content:
    from mlflow.entities import Dataset

    if changed := other_outs(entry):
        # Its numbers would stand under the key of others.
        raise ValueError(f"{changed[0]}: damaged, or changed since dvc.lock recorded it; {mend(changed[0])}")
    now = int(1000 * time.time())
    points = [Point(metric, float(value), now, 0) for metric, value in _final_metrics(entry)]
    if record:
        points += [Point(f"system/{part}", float(record[part]), now, 0) for part in SYSTEM_METRICS if part in record]
    for row in _history(entry):
        points += [Point(f"training/{part}", float(row[part]), now, int(row["step"])) for part in row if part != "step"]
    datasets = [
        Dataset(name=path[:500], digest=dep["md5"][:36], source_type=SOURCE_TYPE, source=path)
        for dep in entry.get("deps", [])
        if not (path := redacted(dep["path"])).endswith(".py") and "md5" in dep
    ]
    return Content(params_of(entry.get("params", {}).get("params.yaml", {})), points, datasets)


def params_of(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Nested parameters as MLflow has them: texts under dotted names."""
    return {name: redacted(str(value))[:6000] for name, value in flatten(parameters)}


def _outs(entry: Mapping[str, Any]) -> list[Path]:
    return [Path(out["path"]) for out in entry.get("outs", [])]


def _final_metrics(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for path in _outs(entry):
        if path.suffix == ".json" and (path.parts[0] == "metrics" or path.name == "metrics.json"):
            yield from sorted(read_json(path).items())


def _history(entry: Mapping[str, Any]) -> Iterator[dict[str, float]]:
    for path in _outs(entry):
        if path.parts[0] == "history":
            yield from read_json(path)


def _pictures(entry: Mapping[str, Any]) -> Iterator[Path]:
    for path in _outs(entry):
        if path.suffix == ".html":
            yield path
        elif path.name == "figures":
            yield from sorted(path.iterdir())


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of nested dictionaries."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
