"""A walk as Prefect's server shows it: a flow run, with a task run for each stage."""

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from config.redaction import one_line
from pipeline.execution import CACHED, CANCELLED, FAILED, RAN, SKIPPED, UNCHANGED, Outcome, progress_of
from pipeline.observing import Observer
from pipeline.scheduling.artifacts import failure, key_of, result, stages
from pipeline.scheduling.delivery import Delivery, warn
from pipeline.tracking.keys import COMPARISON_STAGE
from pipeline.tracking.writer import Replayed
from pipeline.walk import Walk

# Between two looks whether somebody has cancelled the run, and between two updates of the progress bars.
CANCEL_SECONDS, PROGRESS_SECONDS = 2.0, 3.0
# For what is left to tell when the walk is over.
FLUSH_SECONDS = 15.0
# Beside the logs of a walk that has completed without the server's knowledge.
COMPLETED = "completed"
INFO, ERROR = 20, 40
STATES = {
    RAN: ("COMPLETED", "Completed"),
    CACHED: ("COMPLETED", "Cached"),
    UNCHANGED: ("COMPLETED", "Completed"),
    FAILED: ("FAILED", "Failed"),
    CANCELLED: ("CANCELLED", "Cancelled"),
    SKIPPED: ("CANCELLED", "Skipped"),
}


@dataclass
class _Task:
    """A stage's task run: its id, its columns in the server's table, and the time of its last state."""

    columns: dict[str, Any]
    id: str = field(default_factory=lambda: str(uuid4()))
    moment: datetime = field(default_factory=lambda: _now())


class FlowRun(Observer):
    """A flow run that the server knows and shows as running; `close` ends it.

    If it is cancelled on its page, this process gets SIGTERM.
    """

    def __init__(self, run: str) -> None:
        self.id = run
        self._tasks: dict[str, _Task] = {}
        self._walk: Walk | None = None
        self._lock = threading.Lock()
        self._shares: dict[str, float] = {}
        self._bars: dict[str, UUID] = {}
        self._drawn, self._looked = 0.0, time.monotonic()
        self._is_cancelled = False
        self._delivery = Delivery(self._refresh)
        self.ask = self._delivery.ask

    def show(self, walk: Walk, name: str) -> None:
        """Say what the run walks. name: of its experiment, which becomes the run's; empty: none."""
        self._walk = walk
        self.say(f"{walk.root}: {len(walk.stages)} of {len(walk.graph.stages)} stages may have to run")
        if name:
            self.ask(lambda client: client.update_flow_run(UUID(self.id), name=name))

    def waiting(self, stage: str) -> None:
        """Show the task run as pending."""
        self._tell(self._task(stage), "PENDING", "Waiting for a slot")

    def started(self, stage: str, device: str) -> None:
        """Show the task run as running from now on."""
        task = self._task(stage)
        task.columns |= {"start_time": _now().isoformat(), "run_count": 1}
        self._tell(task, "RUNNING", "Running", device)

    def line(self, stage: str, text: str) -> None:
        """Send a line as a log of the task run, and the progress that it reports as a bar."""
        self._log(text, INFO, self._task(stage).id)
        if (share := progress_of(text)) is not None:
            with self._lock:
                self._shares[stage] = 100 * share

    def ended(self, outcome: Outcome) -> None:
        """Give the task run its last state; a failed one gets an artifact with its last lines."""
        task, stage = self._task(outcome.stage), outcome.stage
        if start := task.columns.get("start_time"):
            spent = _now() - datetime.fromisoformat(start)
            task.columns |= {"end_time": _now().isoformat(), "total_run_time": spent.total_seconds()}
        with self._lock:
            if outcome.is_done and (stage in self._bars or stage in self._shares):
                self._shares[stage] = 100.0
        if outcome.status == FAILED and self._walk:
            self.add_markdown(f"failed-{key_of(stage)}", failure(outcome, self._walk.root), task=task.id)
        self._tell(task, *STATES[outcome.status], outcome.status)

    def say(self, text: str, *, level: int = INFO) -> None:
        """Send a line as a log of the run itself."""
        self._log(text, level, None)

    def add_markdown(self, key: str, text: str, *, task: str | None = None) -> None:
        """Make an artifact of the run, or of one of its tasks."""
        self._add("markdown", key, text, task)

    def show_results(self, written: Replayed) -> None:
        """Make artifacts of the table of all stages and, if the walk was to make a comparison and did, of the result."""
        walk = self._walk
        assert walk is not None, "`show` comes first"
        try:
            self._add("table", "stages", stages(walk, written), None)
            if COMPARISON_STAGE in walk.graph.stages and all(outcome.is_done for outcome in walk.finished.values()):
                self.add_markdown("result", result(walk.root, written))
        except Exception as error:
            warn(f"shows no result: {one_line(error)}")

    def close(self, state: Any, *, seconds: float = FLUSH_SECONDS) -> None:
        """Give the run its last state; wait for the server at most so long, then give up with a printed warning."""
        self.ask(lambda client: client.set_flow_run_state(UUID(self.id), state))
        if not self._delivery.close(seconds):
            if self._walk and state.is_completed():
                self._walk.logs.mkdir(parents=True, exist_ok=True)
                (self._walk.logs / COMPLETED).touch()
            warn(f"does not know that this run is {state.name}; `semmae doctor --repair` tells it later")

    def _task(self, stage: str) -> _Task:
        with self._lock:
            if stage not in self._tasks:
                upstream = self._walk.upstream(stage) if self._walk else []
                inputs = [{"input_type": "task_run", "id": self._tasks[name].id} for name in upstream]
                self._tasks[stage] = _Task({
                    "name": stage, "task_key": stage, "dynamic_key": "0", "tags": [stage.partition("@")[0]],
                    "task_inputs": {"wait_for": inputs}, "expected_start_time": _now().isoformat(),
                })  # fmt: skip
            return self._tasks[stage]

    def _tell(self, task: _Task, kind: str, name: str, message: str = "") -> None:
        # The server takes a state for newer by its time alone.
        task.moment = max(_now(), task.moment + datetime.resolution)
        resource = {
            "prefect.resource.id": f"prefect.task-run.{task.id}", "prefect.resource.name": task.columns["name"],
            "prefect.state-name": name, "prefect.state-type": kind, "prefect.state-message": message,
            "prefect.state-timestamp": task.moment.isoformat(), "prefect.orchestration": "client",
        }  # fmt: skip
        event = {
            "id": str(uuid4()),
            "occurred": task.moment.isoformat(),
            "event": f"prefect.task-run.{name}",
            "resource": resource,
            "related": [
                {"prefect.resource.id": f"prefect.flow-run.{self.id}", "prefect.resource.role": "flow-run"},
            ],
            "payload": {
                "intended": {"from": None, "to": kind},
                "initial_state": None,
                "validated_state": {"type": kind, "name": name, "message": message or None},
                "task_run": dict(task.columns),
            },
        }
        self._delivery.add_event(event)

    def _log(self, text: str, level: int, task: str | None) -> None:
        self._delivery.add_line({
            "name": "semmae", "level": level, "message": text, "timestamp": _now().isoformat(),
            "flow_run_id": self.id, "task_run_id": task,
        })  # fmt: skip

    def _add(self, kind: str, key: str, data: Any, task: str | None) -> None:
        from prefect.client.schemas.actions import ArtifactCreate

        artifact = ArtifactCreate.model_validate(
            {"type": kind, "key": key, "data": data, "flow_run_id": self.id, "task_run_id": task}
        )
        self.ask(lambda client: client.create_artifact(artifact))

    def _refresh(self, client: Any) -> None:
        """Draw the progress bars, and see whether somebody has cancelled the run."""
        now, is_closing = time.monotonic(), self._delivery.closing.is_set()
        if is_closing or now - self._drawn > PROGRESS_SECONDS:
            self._drawn = now
            self._draw_bars(client)
        if not is_closing and not self._is_cancelled and now - self._looked > CANCEL_SECONDS:
            self._looked = now
            state = client.read_flow_run(UUID(self.id)).state
            if state.is_cancelling() or state.is_cancelled():
                self._is_cancelled = True
                os.kill(os.getpid(), signal.SIGTERM)

    def _draw_bars(self, client: Any) -> None:
        from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

        with self._lock:
            shares, self._shares = self._shares, {}
        for stage, percent in shares.items():
            if stage in self._bars:
                client.update_artifact(self._bars[stage], ArtifactUpdate.model_validate({"data": percent}))
                continue
            of_stage = {"flow_run_id": self.id, "task_run_id": self._tasks[stage].id, "description": stage}
            bar = {"type": "progress", "key": f"progress-{key_of(stage)}", "data": percent, **of_stage}
            self._bars[stage] = client.create_artifact(ArtifactCreate.model_validate(bar)).id


def _now() -> datetime:
    return datetime.now(UTC)
