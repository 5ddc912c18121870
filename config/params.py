"""params.yaml and runtime.yaml, read and validated.

params.yaml holds every number that changes a result. runtime.yaml holds what only changes speed; DVC does not track it.
"""

import json
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from config import evaluation_groups as evaluation
from config import groups
from config.arms import ArmsParams
from config.groups import Count, Group, NonNegative, Positive, Seed
from config.names import shown
from config.redaction import redacted
from shards.urls import host_and_port

Model = TypeVar("Model", bound=BaseModel)


class Params(Group):
    """The whole of params.yaml."""

    data: groups.DataParams
    creatures: groups.CreaturesParams
    teacher: groups.TeacherParams
    extract: groups.ExtractParams
    refine: groups.RefineParams
    arms: ArmsParams
    seeds: list[Seed] = Field(min_length=1)
    pretrain: groups.PretrainParams
    monitor: evaluation.MonitorParams
    probe: evaluation.ProbeParams
    finetune: evaluation.FinetuneParams
    linear_mae: evaluation.LinearMaeParams
    transfer: evaluation.TransferParams
    segment: evaluation.SegmentParams
    quality: evaluation.QualityParams
    compare: evaluation.CompareParams
    compute: groups.ComputeParams

    @model_validator(mode="after")
    def _check(self) -> "Params":
        for name, values in (
            ("seeds", self.seeds),
            ("transfer.sets", self.transfer.sets),
            ("segment.sets", self.segment.sets),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} {values} holds a value twice")
        unknown = sorted(self.segment.mask_values.keys() - set(self.segment.sets))
        if unknown:
            raise ValueError(f"segment.mask_values: {unknown[0]} is not one of segment.sets {self.segment.sets}")
        if self.segment.sets and self.segment.image_size % self.pretrain.patch_size:
            raise ValueError(
                f"segment.image_size {self.segment.image_size} must be divisible by pretrain.patch_size "
                f"{self.pretrain.patch_size}"
            )
        if self.compare.baseline not in self.arms.names:
            raise ValueError(f"compare.baseline {self.compare.baseline} is not one of arms.names {self.arms.names}")
        for name in self.arms.names:
            if self.arms.definitions[name].parts == "truth" and not self.data.part_truth:
                raise ValueError(
                    f"arm {name} has parts truth, but data.part_truth is []: this data has no masks to follow; leave {name} "
                    "out of arms.names"
                )
        if self.compute.world_size > self.pretrain.batch_size:
            raise ValueError(f"compute.world_size {self.compute.world_size} is more than pretrain.batch_size")
        if self.compute.world_size > self.finetune.batch_size // (2 if self.finetune.mixes else 1):
            pairs = ", counted in pairs for mixup and cutmix" if self.finetune.mixes else ""
            raise ValueError(f"compute.world_size {self.compute.world_size} is more than finetune.batch_size{pairs}")
        from_heads = self.refine.initialisation == "heads" and self.teacher.source == "train"
        if from_heads and self.refine.parts != self.teacher.num_heads:
            raise ValueError(
                f"refine.parts {self.refine.parts} with initialisation heads must equal teacher.num_heads "
                f"{self.teacher.num_heads}; use initialisation random or clusters for another number"
            )
        return self


class SlurmRuntime(Group):
    """The job that `launcher: slurm` submits: one task a node, which starts the processes of its node."""

    partition: str = Field(description="partition; empty leaves the choice to the cluster")
    minutes: Count = Field(description="time limit; shortly before it, training saves and the job is queued again")
    gpus_per_node: Annotated[int, Field(ge=0)] = Field(description="one for each process of the node, or 0")
    cpus_per_task: Count = Field(description="cores of a node; each process needs compute.threads plus workers")
    options: dict[str, str | int | bool] = Field(description="more sbatch parameters, such as {account: vision}")


class Runtime(Group):
    """The whole of runtime.yaml: what changes neither results nor bits."""

    workers: Annotated[int, Field(ge=0)] = Field(description="decoding threads or processes")
    prefetch: Count = Field(description="batches prepared in advance")
    ram_gib: Positive = Field(description="most memory for decoded images")
    log_seconds: Positive = Field(description="seconds between progress lines without a terminal")
    checkpoint_seconds: NonNegative = Field(
        description="seconds between checkpoints, more if they are slow; 0 saves every step"
    )
    live: bool = Field(description="whether MLflow shows a training while it runs")
    watchdog_seconds: Positive = Field(description="a walk stops a stage that prints nothing for so many seconds")
    engine: Literal["local", "ray"] = Field(description="where the streaming stages compute their shards")
    ray_address: str = Field(
        description="Ray cluster as host:port or auto; empty starts one on this machine for the stage"
    )
    shard_workers: Count = Field(
        description="processes that compute shards, each with its own CUDA device, or compute.threads cores"
    )
    launcher: Literal["local", "slurm"] = Field(description="what starts the processes that train together")
    nodes: Count = Field(description="machines over which these processes are spread")
    rendezvous: str = Field(description="HOST:PORT at which nodes meet with launcher local; HOST is one of them")
    restarts: Annotated[int, Field(ge=0)] = Field(
        description="how often training restarts by itself after losing a process"
    )
    join_seconds: Count = Field(description="seconds that nodes wait for a missing one")
    slurm: SlurmRuntime

    @property
    def reading(self) -> dict[str, Any]:
        """How `images.stream.TrainingImages` reads: its arguments of these names."""
        return self.model_dump(include={"ram_gib", "workers", "prefetch"})

    @model_validator(mode="after")
    def _check(self) -> "Runtime":
        if self.launcher == "local" and self.nodes > 1 and host_and_port(self.rendezvous) is None:
            raise ValueError(
                f"rendezvous: got {self.rendezvous!r}, expected HOST:PORT, at which the {self.nodes} nodes meet"
            )
        if self.nodes > 1 and self.join_seconds >= self.watchdog_seconds:
            raise ValueError(
                f"join_seconds: got {self.join_seconds}, expected less than watchdog_seconds {self.watchdog_seconds:g}: a walk "
                "would stop a stage that waits for a node"
            )
        return self


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and validate params.yaml; the first fault is a one-line ValueError that names the key."""
    return _load(path, Params)


def load_runtime(path: str | Path = "runtime.yaml") -> Runtime:
    """Read and validate runtime.yaml."""
    return _load(path, Runtime)


def read_yaml(path: str | Path) -> Any:
    """Read YAML 1.2, where `1e-4` is a number; PyYAML reads it as text."""
    try:
        return deepcopy(_parsed(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"{path}: not found; `semmae preset quickstart` writes it") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


@lru_cache(maxsize=8)
def _parsed(text: str) -> Any:
    """Kept, because a dvc.lock takes a third of a second, and a command reads it several times."""
    return YAML(typ="safe", pure=True).load(text)


def _load(path: str | Path, model: type[Model]) -> Model:
    try:
        # Through JSON: strict validation of Python objects would refuse a list for a tuple, and YAML has only lists.
        return model.model_validate_json(json.dumps(read_yaml(path)), strict=True)
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """One line for the first fault: key, value, what is allowed."""
    first = error.errors()[0]
    key = redacted(" ".join(".".join(map(str, first["loc"])).split())) or "parameters"
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or correct its name"
    if first["type"] == "missing":
        return f"{key}: missing; it has no default"
    value = first["input"]
    got = "" if isinstance(value, dict | BaseModel) else f"got {shown(value)}; "
    return f"{key}: {got}{first['msg'].removeprefix('Value error, ')}"
