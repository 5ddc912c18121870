"""The Prefect flow: the walk with one task a stage, started from a form, watched and cancelled on a web page.

Prefect runs the tasks and shows them. The file locks of `pipeline.slots` decide how many stages run at once, and DVC decides
what is up to date: neither Prefect's limits nor its caches are used.
"""

import contextlib
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State
from pydantic import BaseModel, ConfigDict, Field

from config.names import STAGE
from config.params import load_params
from config.presets import BASE, FOLDER, preset_names
from config.redaction import one_line
from jobs.state import main_worktree
from jobs.supervision import GRACE_SECONDS, follow, identity
from pipeline import experiments
from pipeline.execution import CANCELLED, FAILED, SKIPPED, Outcome, progress_of
from pipeline.parameters import changed, is_as_here, parse_changes
from pipeline.running import at, place_for, repeat, status_of
from pipeline.scheduling.services import run_page
from pipeline.tracking.client import KILLED
from pipeline.tracking.replay import replay
from pipeline.tracking.writer import Replayed
from pipeline.walk import Walk, unchanged

AS_HERE = "as in params.yaml"
# Seconds between two updates of a progress bar: each is a request to the server.
PROGRESS_SECONDS = 3.0


def arms_offered(root: Path) -> tuple[str, ...]:
    """The arms that params.yaml of `root` defines; if it cannot be read, prints a warning and returns the quickstart's."""
    try:
        params = load_params(root / "params.yaml")
    except (OSError, ValueError) as error:
        print(f"warning: {one_line(error)}; the form offers the arms of preset {BASE}", file=sys.stderr)
        params = load_params(root / FOLDER / f"{BASE}.yaml")
    return tuple(params.arms.definitions)


Preset = Literal[(AS_HERE, *preset_names())]  # type: ignore[valid-type]
# A run from the form works in the main worktree, whoever registered the form.
Arm = Literal[arms_offered(main_worktree())]  # type: ignore[valid-type]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
# The server stores the form's values as they are, so it takes no address with a user: no `@` in a value, or no `//`.
_VALUE = r"([^@\x00-\x1f]*|([^/\x00-\x1f]|/[^/\x00-\x1f])*/?)"
Change = Annotated[str, Field(pattern=rf"^[a-z0-9_.]+={_VALUE}$")]
Target = Annotated[str, Field(pattern=f"^{STAGE}$", max_length=200)]


class Experiment(BaseModel):
    """The form. 0 and empty mean: the value of the preset, or of params.yaml."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,60})?$",
        description="name of the DVC experiment: letters, digits, `_`, `.`, `-`; empty: chosen for you if one is needed",
    )
    # mypy cannot know these two types: their values are read at import.
    preset: Preset = Field(AS_HERE, description="parameters to start from; your images stay")  # type: ignore[valid-type]
    arms: list[Arm] = Field(  # type: ignore[valid-type]
        [], description="arms to compare, of those that params.yaml defines; empty: as the preset"
    )
    seeds: list[Seed] = Field(
        [], description="each arm runs once for each seed, 0 or more; a verdict needs at least five"
    )
    epochs: int = Field(0, ge=0, le=10000, description="epochs of pretraining, 1 to 10000; 0: as the preset")
    mask_ratio: float = Field(0.0, ge=0.0, lt=1.0, description="share of hidden patches, below 1; 0: as the preset")
    batch_size: int = Field(
        0, ge=0, le=65536, description="images a step of pretraining, over all devices, 1 to 65536; 0: as the preset"
    )
    learning_rate: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="learning rate of pretraining for 256 images (base_lr), at most 1; 0: as the preset",
    )
    parts: int = Field(0, ge=0, le=64, description="semantic parts to learn, 2 to 64; 0: as the preset")
    other: list[Change] = Field([], description="any other parameter of params.yaml, as group.name=value")
    targets: list[Target] = Field([], description="stages to run, with everything they need; empty: all")
    force: bool = Field(False, description="also run stages that did not change")
    dry_run: bool = Field(False, description="only list the stages that would run")

    def changes(self) -> dict[str, Any]:
        """Dotted key -> value of the parameters that the form changes."""
        given = {
            "pretrain.epochs": self.epochs,
            "pretrain.mask_ratio": self.mask_ratio,
            "pretrain.batch_size": self.batch_size,
            "pretrain.base_lr": self.learning_rate,
            "refine.parts": self.parts,
        }
        return {**{key: value for key, value in given.items() if value}, **parse_changes(self.other)}


def _run_name() -> str:
    """The experiment's name, or the name under which the run was submitted."""
    form = flow_run.parameters["form"]
    name = form.name if isinstance(form, Experiment) else form.get("name")
    return name or flow_run.name or "run"


@flow(name="semmae", flow_run_name=_run_name, validate_parameters=True, persist_result=False)
def semmae(form: Experiment) -> None:
    """Run the stages that changed, independent ones side by side; other parameters make a DVC experiment."""
    # A flow must not outlive its worker.
    follow(identity(os.getppid()))
    document, origin = changed(
        preset="" if form.preset == AS_HERE else form.preset, arms=form.arms, seeds=form.seeds, changes=form.changes()
    )
    (plan if form.dry_run else walked)(document, name=form.name, preset=origin, targets=form.targets, force=form.force)


@flow(name="semmae", flow_run_name="from a terminal", validate_parameters=False, persist_result=False)
def semmae_run(document: Mapping[str, Any], name: str, preset: str, targets: Sequence[str], force: bool) -> None:
    """`semmae run` from a terminal, shown by the server."""
    walked(document, name=name, preset=preset, targets=targets, force=force)


def run_under_prefect(document: Any, *, name: str, preset: str, targets: Sequence[str], force: bool) -> int:
    """Walk as a flow run that the server shows; returns the exit code."""
    state = semmae_run(document, name, preset, list(targets), force, return_state=True)  # type: ignore[call-overload]
    return int(not state.is_completed())


class StageFailed(Exception):
    """A stage failed, was cancelled or was skipped."""


def plan(document: Any, *, name: str, preset: str, targets: Sequence[str], force: bool) -> None:
    """In a flow run: list the stages that would run in an artifact."""
    as_here = not name and is_as_here(document)
    with contextlib.nullcontext(Path.cwd()) if as_here else experiments.draft(document, preset=preset) as root:
        stages = Walk(root, targets=targets, force=force).stages
    create_markdown_artifact("\n".join(f"- {stage}" for stage in stages) or "nothing", key="would-run")


def walked(document: Any, *, name: str, preset: str, targets: Sequence[str], force: bool) -> None:
    """In a flow run: walk, replay into MLflow, verify, save. Raises StageFailed if a stage is not done."""
    root, name = place_for(document, name=name, preset=preset)
    logger = get_run_logger()
    with experiments.hold(root) as held, at(root, name):
        held.write(f"{flow_run.id}\n")
        held.flush()
        walk = Walk(root, targets=targets, force=force, label=str(flow_run.id))
        logger.info("%s: %d of %d stages may have to run", root, len(walk.stages), len(walk.graph.stages))
        futures: dict[str, PrefectFuture] = {}
        run_stage = _stage_task(walk)
        try:
            for stage in walk.stages:
                before = [futures[other] for other in walk.upstream(stage)]
                futures[stage] = run_stage.with_options(task_run_name=stage).submit(stage, wait_for=before)
            for future in futures.values():
                future.wait()
        except BaseException:
            walk.cancelled.set()
            _wait(futures.values())
            raise
        finally:
            outcomes = {stage: _outcome(walk, stage) for stage in futures}
            status = status_of(list(outcomes.values())) if not walk.cancelled.is_set() else KILLED
            _show(walk, outcomes, replay(status=status, ask=bool(outcomes)))
        failed = [outcome.stage for outcome in outcomes.values() if not outcome.is_done]
        if failed:
            raise StageFailed(f"{len(failed)} of {len(outcomes)} stages are not done, {failed[0]} first")
        # Without a stage to run, DVC has just found that nothing changed.
        if outcomes:
            walk.verify()
        if name:
            experiments.save(name)


def _stage_task(walk: Walk) -> Any:
    @task(cache_policy=NO_CACHE, persist_result=False, retries=0)
    def stage(name: str) -> State:
        logger, bar = get_run_logger(), _Bar(name)

        def pass_on(line: str) -> None:
            logger.info(line)
            bar.update(line)

        outcome = walk.run(name, pass_on)
        if outcome.is_done:
            bar.close()
            return Completed(message=outcome.status)
        if outcome.status == FAILED:
            lines = "\n".join(outcome.last_lines)
            create_markdown_artifact(
                f"`{name}` failed. The end of `{outcome.log}`:\n\n```\n{lines}\n```\n\nTo repeat it:\n\n```\n"
                f"{repeat(name, walk.root)}\n```\n",
                key=f"failed-{_key(name)}",
            )
            return Failed(message=f"{name} failed; see this run's artifacts for its last lines")
        return Cancelled(message=f"{name}: {outcome.status}")

    return stage


class _Bar:
    """The progress artifact of a stage, created by the first line that reports progress."""

    def __init__(self, stage: str) -> None:
        self.stage, self.updated = stage, 0.0
        self.artifact: UUID | None = None

    def update(self, line: str) -> None:
        """Update the bar if a line of output reports progress."""
        share = progress_of(line)
        if share is not None and time.monotonic() - self.updated > PROGRESS_SECONDS:
            self._set(100 * share)

    def close(self) -> None:
        """Set the bar to 100 %, if there is one."""
        if self.artifact is not None:
            self._set(100.0)

    def _set(self, percent: float) -> None:
        self.updated = time.monotonic()
        if self.artifact is None:
            # Outside of async code Prefect returns the id itself.
            created: Any = create_progress_artifact(percent, key=f"progress-{_key(self.stage)}", description=self.stage)
            self.artifact = created
        else:
            update_progress_artifact(self.artifact, percent)


def _key(stage: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", stage.lower()).strip("-")


def _wait(futures: Any) -> None:
    """Wait until cancelled stages have saved, at most GRACE_SECONDS."""
    deadline = time.monotonic() + GRACE_SECONDS
    for future in futures:
        future.wait(timeout=max(0.1, deadline - time.monotonic()))


def _outcome(walk: Walk, stage: str) -> Outcome:
    not_started = Outcome(stage, CANCELLED if walk.cancelled.is_set() else SKIPPED)
    return walk.finished.get(stage, not_started)


def _show(walk: Walk, outcomes: Mapping[str, Outcome], written: Replayed) -> None:
    """Make an artifact: the table of all stages."""
    rows, digests = [], walk.digests()
    for outcome in (*unchanged(walk.graph, outcomes), *outcomes.values()):
        run = written.runs.get(outcome.stage)
        page = run_page(written.experiment, run) if run else ""
        rows.append(
            {
                "stage": outcome.stage,
                "result": outcome.status,
                "seconds": round(outcome.seconds, 1),
                "device": outcome.device,
                "digest": digests.get(outcome.stage, ""),
                "MLflow": f"[run]({page})" if page else "",
            }
        )
    create_table_artifact(rows, key="stages", description=f"{walk.root}")
