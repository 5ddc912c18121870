"""Against a real Prefect server, with the flow runs that a killed walk leaves there."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from pipeline.doctor import flow_runs
from pipeline.doctor.processes import RUN_VARIABLE
from pipeline.experiments import hold

pytestmark = pytest.mark.slow
HERE, ELSEWHERE = f"semmae-{socket.gethostname()}", "semmae-elsewhere"


@pytest.fixture(scope="module")
def server():
    """A client of a server of its own, for the tests of this module."""
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "CRITICAL", "DO_NOT_TRACK": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in quiet.items():
            patch.setenv(name, value)
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=120), flow_runs.client() as client:
            yield client


@pytest.fixture
def tree(tmp_path, monkeypatch, server):
    """A folder that holds a pipeline, in which we are and whose server is known; runs need not have settled."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flow_runs, "api_url", lambda: "http://server/api")
    monkeypatch.setattr(flow_runs, "SETTLED_SECONDS", -60.0)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".semmae" / "walk").mkdir(parents=True)
    (tmp_path / ".semmae" / "logs").mkdir()
    return tmp_path


def create(server, state, *, worker="", name="semmae"):
    """A run of a flow of this name in this state, taken by a worker if one is named."""
    from prefect import flow

    run = server.create_flow_run(flow(name=name)(lambda: None), state=state)
    if worker:
        server.update_flow_run_labels(run.id, {"prefect.worker.name": worker})
    return str(run.id)


def state_of(server, run):
    return server.read_flow_run(run).state.name


def log_of(tree, run):
    (tree / ".semmae" / "logs" / run).mkdir()
    return run


@contextlib.contextmanager
def process(**environment):
    """A process with these variables, which is there when the block begins, and is killed when it ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", "print('ready', flush=True); import signal; signal.pause()"],
        env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        child.stdout.readline()
        yield child
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()


def test_dead_flow_runs__those_of_this_machine_end_and_say_how(tree, server):
    from prefect.states import Cancelling, Pending, Running

    held, logged = create(server, Running()), log_of(tree, create(server, Running()))
    (tree / ".semmae" / "walk" / "lock").write_text(f"{held}\n")
    taken, cancelling = create(server, Pending(), worker=HERE), create(server, Cancelling(), worker=HERE)
    found = list(map(str, flow_runs.dead_flow_runs(repair=False)))
    assert {run for run in (held, logged, taken, cancelling) for line in found if run in line and "repair" in line} == {
        held, logged, taken, cancelling,
    }  # fmt: skip
    assert len(list(flow_runs.dead_flow_runs(repair=True))) == len(found) == 4
    ended = [state_of(server, run) for run in (held, logged, taken, cancelling)]
    assert ended == ["Crashed", "Crashed", "Crashed", "Cancelled"]
    assert list(flow_runs.dead_flow_runs(repair=False)) == []


def test_dead_flow_runs__their_tasks_end_with_them(tree, server):
    from prefect import task
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.states import Completed, Running

    run = log_of(tree, create(server, Running()))
    for key, state in (("0", Running()), ("1", Completed())):
        server.create_task_run(task(name=f"stage {key}")(lambda: None), run, key, state=state)
    assert len(list(flow_runs.dead_flow_runs(repair=True))) == 1
    tasks = server.read_task_runs(flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run]}}))
    assert {one.dynamic_key: one.state.name for one in tasks} == {"0": "Crashed", "1": "Completed"}


def test_dead_flow_runs__stages_that_still_run_in_a_run_that_has_ended_are_ended(tree, server):
    from prefect import task
    from prefect.states import Crashed, Running

    run = create(server, Crashed())
    stage = server.create_task_run(task(name="stage")(lambda: None), run, "0", state=Running()).id
    (line,) = map(str, flow_runs.dead_flow_runs(repair=False))
    assert str(stage) in line
    assert len(list(flow_runs.dead_flow_runs(repair=True))) == 1
    assert server.read_task_run(stage).state.name == "Crashed"
    assert list(flow_runs.dead_flow_runs(repair=False)) == []


def test_dead_flow_runs__one_that_completed_while_the_server_was_down_is_completed(tree, server):
    from prefect.states import Running

    run = log_of(tree, create(server, Running()))
    (tree / ".semmae" / "logs" / run / flow_runs.COMPLETED).touch()
    assert len(list(flow_runs.dead_flow_runs(repair=True))) == 1
    assert state_of(server, run) == "Completed"


def test_dead_flow_runs__a_living_one_another_machines_and_an_ended_one_are_not_touched(tree, server):
    from prefect.states import Completed, Running

    walking, started = create(server, Running()), create(server, Running(), worker=HERE)
    others = [create(server, Running(), worker=ELSEWHERE), create(server, Running())]
    log_of(tree, create(server, Completed()))
    log_of(tree, create(server, Running(), name="another flow"))
    with hold(tree) as file, process(**{RUN_VARIABLE: started}):
        file.write(f"{walking}\n")
        file.flush()
        assert list(flow_runs.dead_flow_runs(repair=True)) == []
    assert len(list(flow_runs.dead_flow_runs(repair=True))) == 2
    assert [state_of(server, run) for run in (walking, started, *others)] == [
        "Crashed",
        "Crashed",
        "Running",
        "Running",
    ]


def test_dead_flow_runs__one_that_has_just_begun_is_given_time(tree, server, monkeypatch):
    from prefect.states import Running

    monkeypatch.setattr(flow_runs, "SETTLED_SECONDS", 30.0)
    run = create(server, Running(), worker=HERE)
    assert list(flow_runs.dead_flow_runs(repair=True)) == []
    assert state_of(server, run) == "Running"


def test_end__a_run_that_ended_meanwhile_keeps_its_state(tree, server):
    from prefect.states import Completed, Running

    run = server.read_flow_run(log_of(tree, create(server, Running())))
    server.set_flow_run_state(run.id, Completed())
    flow_runs.end(server, run)
    assert state_of(server, run.id) == "Completed"
