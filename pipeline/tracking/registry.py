"""Choose an arm's best encoder and manage its versions in MLflow's model registry."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.params import Params
from config.redaction import one_line, redacted
from jobs.dvc_lock import is_code, stage_entries
from pipeline.graph import Graph, explain
from pipeline.model_card import jobs
from pipeline.tracking.client import EXPERIMENT, FINISHED, client, tracking_uri
from pipeline.tracking.keys import key_of
from pipeline.tracking.replay import replay
from pipeline.tracking.tags import KEY_TAG
from pipeline.tracking.views import run_page
from shards.files import read_json
from shards.seals import read_sealed

# Folder of the model among the artefacts of its run.
ARTIFACT = "encoder"
WEIGHTS_TAG = "weights_sha256"
MEASURE = "linear_accuracy"
# The alias of the version that was registered last.
CHAMPION = "champion"
LOCK_FILE = Path("dvc.lock")


@dataclass(frozen=True)
class Choice:
    """The seed of an arm whose frozen features the linear probe classifies best, and the seeds it was chosen among."""

    arm: str
    seed: int
    accuracy: float
    among: tuple[int, ...]

    @property
    def job(self) -> str:
        """ARM-SEED."""
        return f"{self.arm}-{self.seed}"

    @property
    def model(self) -> str:
        """The name in the registry."""
        return f"semmae-encoder-{self.arm}"


def choose(arm: str, params: Params) -> Choice:
    """The arm's best seed of those in params.yaml that are pretrained and probed; of equal ones the first.

    The probe measures on test alone (validation images choose its penalty and leave no number), so this is a selection on
    test: the winner's accuracy is biased upwards and does not estimate the arm's. The version's tags say so. Raises
    ValueError for an arm that does not run, one without pretraining, one without weights or probe, and images without labels.
    """
    if arm not in params.arms.names:
        raise ValueError(f"arm {arm}: not one that runs here; arms.names are {', '.join(params.arms.names)}")
    if params.arms.definitions[arm].mask == "none":
        raise ValueError(
            f"arm {arm}: mask none leaves its weights random, the floor of the comparison; name another arm"
        )
    if not params.data.labels:
        raise ValueError(
            f"arm {arm}: data.labels is [], so no linear probe chooses its best seed; `semmae export {arm}-SEED` exports one"
        )
    pretrained = jobs(Path(), "pretrained")
    accuracies = {}
    for seed in params.seeds:
        metrics = Path("metrics/probe") / f"{arm}-{seed}.json"
        if f"{arm}-{seed}" in pretrained and metrics.is_file():
            accuracies[seed] = read_json(metrics)[MEASURE]
    if not accuracies:
        raise ValueError(
            f"arm {arm}: no seed has pretrained weights and a probe; `{_command(arm, params.seeds)}` makes them"
        )
    best = max(accuracies, key=lambda seed: accuracies[seed])
    return Choice(arm, best, accuracies[best], tuple(accuracies))


def check_recorded(choice: Choice) -> None:
    """ValueError where weights or probes differ from dvc.lock, or their data or parameters have changed since.

    The run in MLflow is that of dvc.lock, and the card reads the files in this folder: both must be about the same weights.
    Code may have changed since.
    """
    graph = Graph(targets=[f"probe@{choice.arm}-{seed}" for seed in choice.among])
    for name, changes in graph.changes.items():
        for line in explain(name, list(_apart_from_code(changes)), graph.entries.get(name)):
            raise ValueError(f"{line}; `{_command(choice.arm, choice.among)}` brings it up to date")


def _apart_from_code(changes: Sequence[Any]) -> Iterator[Any]:
    for part in changes:
        if isinstance(part, str):
            yield part
            continue
        for kind, paths in part.items():
            kept = {path: change for path, change in paths.items() if not is_code(path)}
            if kept:
                yield {kind: kept}


def _command(arm: str, seeds: Sequence[int]) -> str:
    return " ".join(["semmae run", *(f"probe@{arm}-{seed}" for seed in seeds)])


def source_run(choice: Choice) -> Any:
    """The MLflow run of the pretraining: the computed one if there is one, else a restored one. Replays if there is none."""
    stage = f"pretrain@{choice.job}"
    key = key_of(stage, stage_entries(LOCK_FILE)[stage])
    run = _run_of(key)
    if run is None:
        replay()
        run = _run_of(key)
    if run is None:
        raise ValueError(
            f"{redacted(tracking_uri())}: no run of {stage}, and a replay wrote none; nothing was registered"
        )
    return run


def _run_of(key: str) -> Any:
    with _registry() as mlflow_client:
        experiment = mlflow_client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return None
        condition = f"tags.`{KEY_TAG}` = '{key}' and attributes.status = '{FINISHED}'"
        runs = mlflow_client.search_runs([experiment.experiment_id], condition, order_by=["attributes.start_time ASC"])
        return min(runs, key=lambda run: run.data.tags.get("cache_hit") != "false", default=None)


def known_version(choice: Choice, digest: str) -> str | None:
    """The version that has the weights with this sha256 already."""
    with _registry() as mlflow_client:
        return _version_of(mlflow_client, choice, digest)


def add_version(choice: Choice, digest: str, run: Any, folder: Path) -> str:
    """Upload `folder`, an MLflow model, to the run and register it; returns the version.

    The version is created last, with all its tags. If the server is lost before, it has artefacts at most, which the next
    call writes again. If another process was faster, its version is returned.
    """
    from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

    with _registry() as mlflow_client:
        known = _version_of(mlflow_client, choice, digest)
        if known is not None:
            return known
        run_id = run.info.run_id
        mlflow_client.log_artifacts(run_id, str(folder), ARTIFACT)
        source = RunsArtifactRepository.get_underlying_uri(f"runs:/{run_id}/{ARTIFACT}", tracking_uri())
        with _model(mlflow_client, choice.model):
            tags, text = tags_of(choice, digest, run.data.tags), description(choice, run.info)
            added = mlflow_client.create_model_version(choice.model, source, run_id, tags=tags, description=text)
            return str(added.version)


def make_champion(choice: Choice, version: str) -> None:
    """Let `models:/MODEL@champion` mean this version."""
    with _registry(
        f"version {version} is registered, but is not the {CHAMPION}: run the command again"
    ) as mlflow_client:
        mlflow_client.set_registered_model_alias(choice.model, CHAMPION, version)


def description(choice: Choice, run: Any) -> str:
    """What the page of a version says, in Markdown; `run`: MLflow's info of its pretraining."""
    return (
        f"{choice.job}: linear probe {choice.accuracy:.4f}, the best of seeds {', '.join(map(str, choice.among))} on the test "
        f"images. It was chosen on these, so the number is biased upwards.\n\n"
        f'`mlflow.pytorch.load_model("models:/{choice.model}@{CHAMPION}")` takes pixels (B, 3, h, w) uint8 and gives features '
        f"(B, D). An export for timm lies beside it in `timm/`.\n\n"
        f"[run of its pretraining]({run_page('', run.experiment_id, run.run_id).lstrip('/')})"
    )


def tags_of(choice: Choice, digest: str, origin: Mapping[str, str]) -> dict[str, str]:
    """The tags of a version; `origin` are the tags of its run, with the commit and the preset."""
    return {
        "arm": choice.arm,
        "seed": str(choice.seed),
        "chosen_by": f"{MEASURE} on test",
        "chosen_among_seeds": " ".join(map(str, choice.among)),
        MEASURE: f"{choice.accuracy:.4f}",
        WEIGHTS_TAG: digest,
        "data_digest": read_sealed("data/shards/manifest.json")["data_digest"],
        **{name: origin[name] for name in ("git_commit", "git_dirty", "preset") if name in origin},
    }


def _version_of(mlflow_client: Any, choice: Choice, digest: str) -> str | None:
    versions = mlflow_client.search_model_versions(f"name = '{choice.model}' and tags.`{WEIGHTS_TAG}` = '{digest}'")
    return next((str(version.version) for version in versions), None)


@contextlib.contextmanager
def _model(mlflow_client: Any, name: str) -> Iterator[None]:
    """The name in the registry; a new name is deleted again if its first version fails."""
    is_new = not mlflow_client.search_registered_models(f"name = '{name}'")
    if is_new:
        mlflow_client.create_registered_model(name)
    try:
        yield
    except BaseException:
        if is_new:
            mlflow_client.delete_registered_model(name)
        raise


@contextlib.contextmanager
def _registry(left: str = "nothing was registered") -> Iterator[Any]:
    """An MLflow client; a lost server or a broken database is a ValueError of one line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with client() as mlflow_client:
            yield mlflow_client
    except (MlflowException, SQLAlchemyError) as error:
        reason = f"{redacted(tracking_uri())}: {one_line(error)[:300]}"
        raise ValueError(f"{reason}; {left}") from error
