"""The tags of MLflow runs: two tables of name -> how the value is computed. Adding a tag is adding one entry."""

import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from config.params import read_yaml
from config.presets import preset_of
from config.redaction import redacted
from jobs.git import git
from jobs.supervision import EXPERIMENT_VARIABLE, identity

KEY_TAG, PIPELINE_TAG, WRITER_TAG, COMPUTED_TAG = "fingerprint", "semmae.pipeline", "semmae.writer", "computed_by"
# The stage as DVC names it. The name of a run is for people, who change it.
NAME_TAG, PARENT_TAG = "dvc_stage", "mlflow.parentRunId"
# What the run of a state has for a stage.
PIPELINE = "pipeline"
# The key of a matrix that is there to leave a stage out if the images have no labels.
SWITCH = "labels"
# Of a run that a follower began while its stage ran: the name of its line file.
LIVE_TAG = "semmae.live"


@dataclass(frozen=True)
class Origin:
    """Facts about one replay that all its runs share. matrix: stage -> the keys of its matrix in dvc.yaml, in order."""

    git_commit: str
    git_dirty: str
    experiment: str
    preset: str
    writer: str
    matrix: Mapping[str, Sequence[str]]


def origin_here() -> Origin:
    """The facts about a replay in the current folder by this process."""
    return Origin(
        git_commit=_git("rev-parse", "HEAD"),
        git_dirty=str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower(),
        experiment=os.environ.get(EXPERIMENT_VARIABLE) or os.environ.get("DVC_EXP_NAME", ""),
        preset=preset_of("params.yaml"),
        writer=f"{socket.gethostname()}/{identity(os.getpid())}",
        matrix=matrix_of(Path("dvc.yaml")),
    )


def _git(*words: str) -> str:
    with contextlib.suppress(ValueError):
        return git(*words)
    return ""


def matrix_of(path: Path) -> dict[str, list[str]]:
    """Stage -> the keys of its matrix, in the order of the file."""
    stages = read_yaml(path)["stages"] if path.is_file() else {}
    return {name: list(stage.get("matrix", ())) for name, stage in stages.items()}


@dataclass(frozen=True)
class Tagged:
    """The run of a stage, or of the pipeline, that is to get tags.

    entry: of dvc.lock. record: of an execution, None for a stage that was restored. state: of the pipeline, for its own run.
    parent, computed_by: ids of runs.
    """

    origin: Origin
    name: str = PIPELINE
    entry: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] | None = None
    key: str = ""
    state: str = ""
    parent: str = ""
    computed_by: str = ""

    @property
    def stage(self) -> str:
        """The name without the item of a matrix."""
        return self.name.partition("@")[0]

    @property
    def title(self) -> str:
        """The name of the run: the experiment alone for the pipeline's own, else `EXPERIMENT ARM SEED STAGE`."""
        if self.name == PIPELINE:
            return self.origin.experiment or PIPELINE
        items = [value for key, value in self.items.items() if key != SWITCH]
        stage = self.stage if self.items else self.name
        return " ".join(filter(None, (self.origin.experiment, *items, stage)))

    @property
    def items(self) -> dict[str, str]:
        """Key -> value of its matrix in dvc.yaml: DVC names a stage STAGE@VALUE-VALUE. Empty if the matrix is another."""
        keys, values = self.origin.matrix.get(self.stage, ()), self.name.partition("@")[2].split("-")
        return dict(zip(keys, values, strict=True)) if len(keys) == len(values) else {}


def _item(key: str, run: Tagged) -> str | None:
    return run.items.get(key)


def _parameter(key: str, run: Tagged) -> Any:
    return run.entry.get("params", {}).get("params.yaml", {}).get(key)


def _recorded(key: str, run: Tagged) -> Any:
    return (run.record or {}).get(key)


# Computed from dvc.lock and dvc.yaml: a second replay of the same state would write the same, and the doctor compares it.
OF_STATE: Mapping[str, Callable[[Tagged], Any]] = {
    "stage": lambda run: run.stage,
    NAME_TAG: lambda run: run.name,
    KEY_TAG: lambda run: run.key,
    PIPELINE_TAG: lambda run: run.state,
    PARENT_TAG: lambda run: run.parent,
    "arm": partial(_item, "arm"),
    "seed": partial(_item, "seed"),
    "set": partial(_item, "set"),
    "threads": partial(_parameter, "compute.threads"),
}
# Known to one execution or one replay alone.
OF_MOMENT: Mapping[str, Callable[[Tagged], Any]] = {
    WRITER_TAG: lambda run: run.origin.writer,
    COMPUTED_TAG: lambda run: run.computed_by,
    "cache_hit": lambda run: str(run.record is None).lower() if run.parent else "",
    "git_commit": lambda run: run.origin.git_commit,
    "git_dirty": lambda run: run.origin.git_dirty,
    "dvc_experiment": lambda run: run.origin.experiment,
    "preset": lambda run: run.origin.preset,
    "device": partial(_recorded, "device"),
    "precision": partial(_recorded, "precision"),
    "torch": partial(_recorded, "torch"),
    "slot": partial(_recorded, "slot"),
}


def tags_of(run: Tagged, table: Mapping[str, Callable[[Tagged], Any]] | None = None) -> dict[str, str]:
    """The tags of a run by one of the tables, or by both; a tag without a value is left out."""
    values = {name: value(run) for name, value in (table or {**OF_STATE, **OF_MOMENT}).items()}
    return {name: redacted(str(value)) for name, value in values.items() if value not in (None, "")}
