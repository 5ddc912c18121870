"""What the server is told of a walk, and what becomes of the walk without it."""

import contextlib
import signal
import threading
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import httpx
import pytest
from prefect.states import Cancelling, Completed, Running

from pipeline.execution import CACHED, FAILED, RAN, SKIPPED, Outcome
from pipeline.observing import Observers
from pipeline.scheduling import delivery
from pipeline.scheduling import flow_run as module
from pipeline.scheduling.flow_run import FlowRun
from tests.conftest import wait_until

RUN = "00000000-0000-4000-8000-000000000001"


class Server:
    """Prefect's client as far as it is used, with what it was told; while `error` is set every request raises it."""

    def __init__(self):
        self.error = None
        self.events, self.lines, self.artifacts, self.states, self.tries = [], [], [], [], 0
        self.state = Running()

    def _answer(self):
        self.tries += 1
        if self.error:
            raise self.error

    def request(self, method, path, json):
        self._answer()
        assert (method, path) == ("POST", "/events")
        self.events += json

    def create_logs(self, lines):
        self._answer()
        self.lines += [line["message"] for line in lines]

    def create_artifact(self, artifact):
        self._answer()
        self.artifacts.append(artifact)
        return SimpleNamespace(id=len(self.artifacts))

    def update_artifact(self, number, artifact):
        self._answer()
        self.artifacts[number - 1].data = artifact.data

    def update_flow_run(self, run, **_):
        self._answer()

    def set_flow_run_state(self, run, state):
        self._answer()
        self.states.append((run, state.name))

    def read_flow_run(self, run):
        self._answer()
        return SimpleNamespace(state=self.state)

    def told(self, stage):
        """The names of the states of a stage."""
        found = [event for event in self.events if event["payload"]["task_run"]["name"] == stage]
        return [event["payload"]["validated_state"]["name"] for event in found]


@pytest.fixture
def server(monkeypatch):
    found = Server()
    monkeypatch.setattr(delivery, "connect", lambda: contextlib.nullcontext(found))
    for place, name in (
        (delivery, "DELIVERY_SECONDS"),
        (delivery, "PAUSE_SECONDS"),
        (module, "CANCEL_SECONDS"),
        (module, "PROGRESS_SECONDS"),
    ):
        monkeypatch.setattr(place, name, 0.01)
    monkeypatch.setenv("PREFECT_API_URL", "http://server/api")
    return found


@pytest.fixture
def run(server, tmp_path):
    """A run whose walk has the stages a and b, b after a."""
    walk = SimpleNamespace(
        root=tmp_path, logs=tmp_path / "logs", stages=["a", "b"], finished={},
        graph=SimpleNamespace(stages={"a": None, "b": None}), upstream={"a": [], "b": ["a"]}.get,
    )  # fmt: skip
    made = FlowRun(RUN)
    made.show(walk, "")
    yield made
    server.error = None
    made.close(Completed())


def test_flow_run__a_stage_waits_and_then_runs_and_ends_at_the_times_at_which_it_did(server, run):
    for stage in ("a", "b"):
        run.waiting(stage)
        run.started(stage, "cpu 0")
        run.line(stage, "pretrain a: 5/10 images, 3 s left")
        run.ended(Outcome(stage, RAN if stage == "a" else CACHED))
    run.close(Completed())
    assert server.told("a") == ["Waiting for a slot", "Running", "Completed"] and server.told("b")[-1] == "Cached"
    first, second = (
        [event for event in server.events if event["payload"]["task_run"]["name"] == name] for name in "ab"
    )
    moments = [datetime.fromisoformat(event["occurred"]) for event in (*first, *second)]
    assert moments == sorted(moments) and len(set(moments)) == 6
    last = first[-1]["payload"]["task_run"]
    assert moments[0] <= datetime.fromisoformat(last["start_time"]) <= datetime.fromisoformat(last["end_time"])
    task = first[0]["resource"]["prefect.resource.id"].removeprefix("prefect.task-run.")
    assert second[0]["payload"]["task_run"]["task_inputs"] == {"wait_for": [{"input_type": "task_run", "id": task}]}
    assert [artifact.data for artifact in server.artifacts if artifact.type == "progress"] == [100.0, 100.0]
    assert server.states == [(UUID(RUN), "Completed")]


def test_flow_run__a_failed_stage_shows_its_last_lines_and_a_skipped_one_that_it_did_not_run(server, run):
    run.started("a", "cpu 0")
    run.ended(Outcome("a", FAILED, log="a.log", last_lines=("no memory",)))
    run.ended(Outcome("b", SKIPPED))
    run.close(Completed())
    (artifact,) = server.artifacts
    assert artifact.key == "failed-a" and "no memory" in artifact.data and "repro --single-item a" in artifact.data
    assert server.told("a")[-1] == "Failed" and server.told("b") == ["Skipped"]


def test_lost_server__is_one_warning_and_is_told_everything_when_it_is_back(server, run, capsys):
    server.error = httpx.ConnectError("nobody there")
    run.waiting("a")
    before = server.tries
    wait_until(lambda: server.tries > before + 5)
    run.started("a", "cpu 0")
    run.ended(Outcome("a", RAN))
    server.error = None
    run.close(Completed())
    assert server.told("a") == ["Waiting for a slot", "Running", "Completed"] and server.states
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: Prefect at http://server/api does not answer (nobody there); the run goes on")


def test_lost_server__keeps_every_state_and_the_last_lines(server, run, monkeypatch):
    monkeypatch.setattr(delivery, "MOST_LINES", 10)
    server.error = httpx.ConnectError("nobody there")
    run.waiting("a")
    for number in range(50):
        run.line("a", f"line {number}")
    server.error = None
    run.close(Completed())
    assert server.told("a") == ["Waiting for a slot"]
    assert server.lines[-10:] == [f"line {number}" for number in range(40, 50)] and len(server.lines) < 60


def test_lost_server__at_the_end_it_is_given_up_with_a_line_and_a_note_for_the_doctor(server, run, capsys):
    server.error = httpx.ConnectError("nobody there")
    run.close(Completed(), seconds=0.1)
    assert "does not know that this run is Completed; `semmae doctor --repair`" in capsys.readouterr().err
    assert (Path(run._walk.logs) / module.COMPLETED).exists()


def test_server_that_refuses__is_told_no_more_and_the_walk_is_not_bothered(server, run, capsys):
    request = httpx.Request("POST", "http://server/api/events")
    server.error = httpx.HTTPStatusError("no such run", request=request, response=httpx.Response(404, request=request))
    wait_until(lambda: not run._delivery._thread.is_alive())
    Observers([run]).tell(lambda observer: observer.waiting("a"))
    run.close(Completed())
    (line,) = capsys.readouterr().err.splitlines()
    assert "shows no more of this run: no such run" in line


def test_cancelled__on_the_page_ends_this_process_as_sigterm_does(server, run):
    terminated = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    try:
        server.state = Cancelling()
        wait_until(terminated.is_set)
        server.state = Running()
    finally:
        signal.signal(signal.SIGTERM, before)
