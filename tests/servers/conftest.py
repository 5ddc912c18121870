"""A finished tiny world with Prefect, a worker and MLflow up, and what tests ask of it."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from dvc.repo import Repo

from config.presets import read_document, write_params
from shards.files import read_json
from tests.conftest import run_stage, wait_until

SEMMAE = [sys.executable, "-c", "from pipeline.cli import main; main()"]
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
FLOW, STAGE = r"pipeline\.scheduling\.launch", r"-m (stages\.|dvc )|/reproducing\.py "


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def semmae(folder, *words, code=0):
    """What the command prints."""
    # SEMMAE_SLOTS empty: slots of this repository's own.
    environment = {
        **os.environ,
        "SEMMAE_SLOTS": "",
        "DVC_NO_ANALYTICS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    answer = subprocess.run(
        [*SEMMAE, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == code, answer.stdout + answer.stderr
    return answer.stdout


def remove_other_arms(folder):
    """What the world has of arms and seeds that are compared no longer: an experiment's worktree does not have it either."""
    for name in ("pretrained", "finetuned", "metrics", "history", "arms"):
        for path in sorted((folder / name).rglob("*")):
            if re.search(r"raw_attention|-1($|\.)", path.name) and path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="session")
def served(world, tmp_path_factory):
    """(folder, Prefect's address, MLflow's address) of a finished world of two arms and a seed, with everything up."""
    folder = tmp_path_factory.mktemp("served") / "world"
    shutil.copytree(world, folder, symlinks=True)
    document = read_document(folder / "params.yaml")
    document["arms"]["names"], document["seeds"] = ["semmae", "mae"], [0]
    write_params(document, folder / "params.yaml")
    remove_other_arms(folder)
    run_stage(folder, "stages.compare")
    runtime = (folder / "runtime.yaml").read_text()
    for name, seconds in (("log_seconds", 10), ("checkpoint_seconds", 30)):
        runtime = runtime.replace(f"{name}: {seconds}", f"{name}: 1")
    (folder / "runtime.yaml").write_text(runtime)
    with contextlib.chdir(folder), Repo() as repo:
        repo.commit(force=True)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["add", "-A"], [*identity, "commit", "-qm", "finished"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    prefect, mlflow = free_port(), free_port()
    semmae(folder, "up", "--prefect-port", prefect, "--mlflow-port", mlflow)
    yield folder, f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}"
    semmae(folder, "down")


def ask(prefect, path, question=None, method="POST"):
    """What the server answers."""
    headers = {"Content-Type": "application/json"}
    if method != "GET":
        client = "tests"
        token = ask(prefect, f"csrf-token?client={client}", method="GET")["token"]
        headers |= {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": client}
    data = None if method == "GET" else json.dumps(question or {}).encode()
    request = urllib.request.Request(f"{prefect}/api/{path}", data=data, headers=headers, method=method)

    def answer():
        try:
            with urllib.request.urlopen(request, timeout=60) as found:
                return [json.load(found)]
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            return []

    return wait_until(answer, 60, every=0.5)[0]


def submit_by_api(prefect, form):
    """The id of a new run of the deployment with this form."""
    deployment = ask(prefect, "deployments/name/semmae/pipeline", method="GET")["id"]
    return ask(prefect, f"deployments/{deployment}/create_flow_run", {"parameters": {"form": form}})["id"]


def state_of(prefect, run):
    """The type of a run's state, RUNNING for example."""
    return ask(prefect, f"flow_runs/{run}", method="GET")["state_type"]


def has_ended(prefect, run):
    """Whether a run is over; a server that does not answer says no."""
    try:
        return state_of(prefect, run) in ENDED
    except OSError:
        return False


def end_of(prefect, run, seconds=600):
    """The state that a run ends in."""
    wait_until(lambda: has_ended(prefect, run), seconds)
    return state_of(prefect, run)


def mlflow_runs(mlflow):
    """Every run of the experiment."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow)
    known = client.get_experiment_by_name("semmae")
    return client.search_runs([known.experiment_id], max_results=1000) if known else []


def processes(folder, pattern):
    """Processes of this command that work in or below `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or ())
        if re.search(pattern, words) and str(process.info["cwd"]).startswith(str(folder)):
            found.append(process)
    return found


@pytest.fixture
def suspend(served):
    """Suspends the trainings as they start, until there are so many, and returns them: none ends before the test lets it."""
    folder, _, _ = served
    trainings = {}

    def find(count):
        for training in processes(folder, r"-m stages\.pretrain"):
            if training.pid not in trainings:
                training.suspend()
                trainings[training.pid] = training
        return list(trainings.values()) if len(trainings) >= count else []

    yield lambda count=1: wait_until(lambda: find(count), 120)
    for training in trainings.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            training.resume()


def service(folder, name):
    """The identity of a process that `semmae up` started; empty where it started none."""
    path = folder / ".semmae" / "services" / "services.json"
    return read_json(path).get(name, {}).get("process", "") if path.is_file() else ""
