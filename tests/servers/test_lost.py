"""A server that is lost while a stage trains costs one warning; brought back, it shows what happened meanwhile."""

import os
import signal
import subprocess

import psutil
import pytest

from tests.conftest import wait_until
from tests.servers.conftest import (
    SEMMAE,
    ask,
    end_of,
    semmae,
    service,
    submit_by_api,
)

pytestmark = pytest.mark.slow


def kill(folder, name):
    """Kill a service with -9."""
    process = psutil.Process(int(service(folder, name).partition(":")[0]))
    for one in (process, *process.children(recursive=True)):
        one.send_signal(signal.SIGKILL)
    process.wait(30)


def up(folder, prefect, mlflow):
    return semmae(
        folder, "up", "--prefect-port", prefect.rpartition(":")[2], "--mlflow-port", mlflow.rpartition(":")[2]
    )


def run_of(prefect, name):
    """The id of the run of this name."""
    (run,) = [run["id"] for run in ask(prefect, "flow_runs/filter") if run["name"] == name]
    return run


def stages_of(prefect, run):
    """Stage -> name of its state."""
    found = ask(prefect, "task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return {one["name"]: one["state_name"] for one in found}


@pytest.fixture
def start(served):
    """Starts `semmae run` with these words."""
    folder, _, _ = served
    started = []

    def run(*words, **variables):
        environment = {**os.environ, "SEMMAE_SLOTS": "", "DVC_NO_ANALYTICS": "1", **variables}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([*SEMMAE, "run", *words], cwd=folder, env=environment, **pipes))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def warnings_of(process):
    """The lines of warning of a run that ends well."""
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, out + error
    return [line for line in (out + error).splitlines() if line.startswith("warning: ")]


def test_prefect__lost_and_not_brought_back_is_one_warning_and_the_doctor_completes_the_run(served, start, suspend):
    folder, prefect, mlflow = served
    process = start("pretrain@semmae-0", "--set", "pretrain.epochs=60", "--name", "lost")
    (training,) = suspend()
    kill(folder, "prefect")
    training.resume()
    lost, at_the_end = warnings_of(process)
    assert "does not answer" in lost and "semmae doctor --repair" in at_the_end
    shown = up(folder, prefect, mlflow)
    assert "mlflow: up already" in shown and "prefect: up after" in shown
    run = run_of(prefect, "lost")
    # What the doctor takes for too young to be dead, it takes later.
    wait_until(lambda: "lost" in semmae(folder, "doctor", "--repair", "--verbose"), 90, every=5)
    assert end_of(prefect, run) == "COMPLETED"


def test_prefect__lost_and_brought_back_shows_runs_of_form_and_terminal_as_they_went(served, start, suspend):
    folder, prefect, mlflow = served
    form = submit_by_api(prefect, {"name": "form", "epochs": 70, "targets": ["pretrain@mae-0"]})
    process = start("pretrain@semmae-0", "--set", "pretrain.epochs=70", "--name", "terminal")
    trainings = suspend(min(2, os.cpu_count()))
    kill(folder, "prefect")
    kill(folder, "worker")
    shown = up(folder, prefect, mlflow)
    assert "mlflow: up already" in shown and "prefect: up after" in shown and "worker: up" in shown
    assert all(training.is_running() for training in trainings)
    for training in trainings:
        training.resume()
    (lost,) = warnings_of(process)
    assert "does not answer" in lost
    assert end_of(prefect, form) == end_of(prefect, run_of(prefect, "terminal")) == "COMPLETED"
    assert stages_of(prefect, form) == {"pretrain@mae-0": "Completed"}


def test_mlflow__lost_is_one_warning(served, start, suspend):
    folder, prefect, mlflow = served
    options = ("--set", "pretrain.epochs=40", "--name", "unwatched")
    process = start("pretrain@mae-0", *options, MLFLOW_TRACKING_URI=mlflow)
    (training,) = suspend()
    kill(folder, "mlflow")
    training.resume()
    (lost,) = warnings_of(process)
    assert lost.startswith("warning: tracking: ")
    assert "mlflow: up after" in up(folder, prefect, mlflow)
    assert end_of(prefect, run_of(prefect, "unwatched")) == "COMPLETED"
