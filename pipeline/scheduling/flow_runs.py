"""What Prefect shows of walks that are gone: flow runs that say Running, and slots that nobody occupies."""

import contextlib
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.state import STATE_FOLDER
from jobs.supervision import SUPERVISOR, is_alive
from pipeline.doctor.processes import RUN_VARIABLE, with_variable
from pipeline.experiments import is_walked
from pipeline.scheduling.services import limit_name, worker_name
from pipeline.slots import CPU, GPU, held_slots

FLOW = "semmae"
# A run younger than this in its state may have a process that is about to start.
SETTLED_SECONDS = 30.0


def client() -> Any:
    """A client of the API that PREFECT_API_URL names."""
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


def dead_runs(found: Any, trees: Collection[Path]) -> list[Any]:
    """The flow runs of this machine that are shown as under way, and whose process is gone.

    Of this machine is a run that its worker took, or that left its name in a walk lock or among the logs of `trees`; one
    that left nothing may be another machine's. It lives while it holds a walk lock, or a process is there for it.
    """
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter

    here, living = set[str](), {value for _, value in with_variable(RUN_VARIABLE)}
    for tree in trees:
        name = _walk_of(tree)
        here |= {name, *(path.name for path in (tree / STATE_FOLDER / "logs").glob("*"))}
        if is_walked(tree):
            living.add(name)
    shown = found.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": [FLOW]}}),
        flow_run_filter=FlowRunFilter.model_validate(
            {"state": {"type": {"any_": ["RUNNING", "CANCELLING", "PENDING"]}}}
        ),
    )
    now = datetime.now(UTC)
    return [
        run
        for run in shown
        if (str(run.id) in here or run.labels.get("prefect.worker.name") == worker_name())
        and str(run.id) not in living
        and (now - run.state.timestamp).total_seconds() > SETTLED_SECONDS
    ]


def _walk_of(tree: Path) -> str:
    """The flow run that holds a tree, or was the last to."""
    path = tree / STATE_FOLDER / "walk" / "lock"
    return path.read_text(encoding="utf-8").partition("\n")[0] if path.is_file() else ""


def end(found: Any, run: Any) -> str:
    """Give a dead run and its tasks their last state, and return its name; one that has ended meanwhile keeps its own.

    Not forced, which is how the server keeps what it has; what was being cancelled is cancelled, the rest crashed.
    """
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.states import Cancelled, Crashed

    last = Cancelled if run.state.is_cancelling() else Crashed
    told = last(message="its process is gone: found by `semmae doctor`")
    found.set_flow_run_state(run.id, told)
    tasks = found.read_task_runs(
        flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run.id]}}),
        task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}),
    )
    for task in tasks:
        found.set_task_run_state(task.id, told)
    return told.name


def leaked_slots(found: Any, trees: Collection[Path]) -> dict[str, int]:
    """Limit of this machine -> slots that are taken in it although no stage is at work here.

    The lease of a dead task gives them back after a minute, unless the server that kept it is gone as well.
    """
    from prefect.exceptions import ObjectNotFound

    at_work = any(is_alive(supervisor) for _, supervisor in with_variable(SUPERVISOR))
    if at_work or held_slots() or any(is_walked(tree) for tree in trees):
        return {}
    taken = {}
    for kind in (CPU, GPU):
        with contextlib.suppress(ObjectNotFound):
            limit = found.read_global_concurrency_limit_by_name(limit_name(kind))
            taken[limit.name] = limit.active_slots
    return {name: slots for name, slots in taken.items() if slots}


def free(found: Any, limit: str) -> None:
    """Take it that nobody occupies a slot of this limit."""
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

    found.update_global_concurrency_limit(limit, GlobalConcurrencyLimitUpdate(active_slots=0))
