"""Flow and task runs that Prefect shows as running and whose process is gone; only where the address of a server is known."""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config.redaction import redacted
from jobs.state import STATE_FOLDER
from pipeline.doctor.findings import Finding
from pipeline.doctor.processes import RUN_VARIABLE, with_variable
from pipeline.doctor.trees import trees
from pipeline.experiments import is_walked
from pipeline.scheduling.flow_run import COMPLETED
from pipeline.scheduling.services import api_url, worker_name

FLOW = "semmae"
# The process of a run may start this much later than the run enters its state.
SETTLED_SECONDS = 30.0
GONE = "its process is gone; ended by `semmae doctor`"


def dead_flow_runs(*, repair: bool) -> Iterator[Finding]:
    """Flow runs of this machine without a process, and the stages that still run in a flow run that has ended."""
    if not api_url():
        return
    place = redacted(api_url())
    with client() as server:
        for run in dead_runs(server, trees()):
            done = f"set to {end(server, run, trees())}" if repair else "repair ends it"
            fault = f"flow run that says {run.state.name} and whose process is gone"
            yield Finding(place, fault, done, f"{run.name}, {run.id}")
        for task in left_tasks(server):
            if repair:
                server.set_task_run_state(task.id, _crashed())
            done = "set to Crashed" if repair else "repair ends it"
            fault = f"stage that says {task.state.name} in a flow run that has ended"
            yield Finding(place, fault, done, f"{task.name}, {task.id}")


def client() -> Any:
    """A client of the API that PREFECT_API_URL names."""
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


def dead_runs(client: Any, trees: Collection[Path]) -> list[Any]:
    """The flow runs of this machine that Prefect shows as pending, running or cancelling and whose process is gone.

    A run belongs to this machine if its worker took it, or if it left its name in a walk lock or among the logs of `trees`;
    one that left nothing may be another machine's. It lives while it holds a walk lock or has a process.
    """
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter

    here, living = set[str](), {value for _, value in with_variable(RUN_VARIABLE)}
    for tree in trees:
        name = _walk_of(tree)
        here |= {name, *(path.name for path in (tree / STATE_FOLDER / "logs").glob("*"))}
        if is_walked(tree):
            living.add(name)
    shown = client.read_flow_runs(
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


def left_tasks(client: Any) -> list[Any]:
    """The stages that Prefect shows as pending or running in a flow run that has ended."""
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter, TaskRunFilter

    tasks = client.read_task_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": [FLOW]}}),
        flow_run_filter=FlowRunFilter.model_validate(
            {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}}
        ),
        task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}),
    )
    now = datetime.now(UTC)
    # The last states of a run that has just ended may be on their way.
    return [task for task in tasks if (now - task.state.timestamp).total_seconds() > SETTLED_SECONDS]


def _walk_of(tree: Path) -> str:
    """The flow run that holds a tree, or held it last; empty if there was none."""
    path = tree / STATE_FOLDER / "walk" / "lock"
    return path.read_text(encoding="utf-8").partition("\n")[0] if path.is_file() else ""


def end(client: Any, run: Any, trees: Collection[Path] = ()) -> str:
    """Give a dead run and its stages a final state, and return its name.

    Completed if a walk of `trees` says so that could not reach the server; Cancelled if it was being cancelled, else Crashed.
    Not forced: the server keeps the state of a run that ended meanwhile.
    """
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.states import Cancelled, Completed

    state = Cancelled(message=GONE) if run.state.is_cancelling() else _crashed()
    if any((tree / STATE_FOLDER / "logs" / str(run.id) / COMPLETED).exists() for tree in trees):
        state = Completed(message="while this server was not up; told by `semmae doctor`")
    client.set_flow_run_state(run.id, state)
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run.id]}}),
        task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}),
    )
    for task in tasks:
        client.set_task_run_state(task.id, state)
    return str(state.name)


def _crashed() -> Any:
    from prefect.states import Crashed

    return Crashed(message=GONE)
