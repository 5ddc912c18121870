"""A training under DVC alone, as MLflow shows it while it runs, with a server that is killed and brought back meanwhile."""

import contextlib
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter

import psutil
import pytest
from mlflow import MlflowClient

from config.presets import read_document, write_params
from jobs import live
from jobs.dvc_lock import digests_of, stage_entries
from jobs.supervision import end_tree
from pipeline.scheduling.services import QUIET
from pipeline.tracking.replay import replay
from shards.files import read_json
from tests.conftest import ROOT, wait_until
from tests.servers.conftest import free_port, mlflow_runs, processes

pytestmark = pytest.mark.slow
STAGE, FOLLOWER = "pretrain@semmae-0", r"pipeline\.tracking\.live"
EPOCHS, STEPS_BEFORE, STEPS_WITHOUT = 200, 10, 5


@contextlib.contextmanager
def server(folder, port):
    """An MLflow server over the SQLite database in `folder`, ended by kill -9."""
    words = ["mlflow", "server", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    with open(folder / "server.log", "ab") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=folder, env={**os.environ, **QUIET}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: answers(port), 120, every=0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        end_tree(started.pid, grace=0.0)
        started.wait()


def answers(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200
    except OSError:
        return False


def steps_of(url, run):
    """[(step, milliseconds)] of the training's losses that MLflow has."""
    return [(one.step, one.timestamp) for one in MlflowClient(url).get_metric_history(run, "training/loss")]


def repro(folder, url, *words, switch):
    environment = {**os.environ, "MLFLOW_TRACKING_URI": url, live.SWITCH: switch, "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{os.path.dirname(sys.executable)}:{environment['PATH']}"
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", *words, STAGE]
    with open(folder.parent / "repro.log", "ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def digests(folder):
    return digests_of(stage_entries(folder / "dvc.lock")[STAGE])


def test_follower__rows_arrive_while_the_stage_runs_and_a_lost_server_loses_none(copied_world, tmp_path, monkeypatch):
    folder, port = copied_world, free_port()
    document = read_document(folder / "params.yaml")
    document["pretrain"]["epochs"] = EPOCHS
    write_params(document, folder / "params.yaml")
    delays = {}

    def rows():
        return [row for path in (folder / ".semmae" / "live").glob("*.jsonl") for row in live.rows_of(path)]

    with server(tmp_path, port) as url:
        training = repro(folder, url, switch="1")
        wait_until(lambda: len(rows()) >= STEPS_BEFORE, 120)
        (stage,) = processes(folder, r"-m stages\.pretrain")
        stage.suspend()  # so that it does not end while the servers start
        (run,) = wait_until(lambda: mlflow_runs(url), 120, every=0.5)
        assert (run.info.status, run.data.tags["arm"], run.data.tags["dvc_stage"]) == ("RUNNING", "semmae", STAGE)
        run = run.info.run_id

        wait_until(lambda: len(steps_of(url, run)) >= STEPS_BEFORE, 120, every=0.3)
    before = len(rows())
    stage.resume()
    wait_until(lambda: len(rows()) >= before + STEPS_WITHOUT, 120)
    stage.suspend()
    with server(tmp_path, port) as url:
        wait_until(lambda: len(steps_of(url, run)) >= before + STEPS_WITHOUT, 60, every=0.5)
        resumed = time.time()
        stage.resume()

        def is_over():
            for step, logged in steps_of(url, run):
                if logged > 1000 * resumed:
                    delays.setdefault(step, time.time() - logged / 1000)
            return training.poll() is not None

        (follower,) = processes(folder, FOLLOWER)
        wait_until(is_over, 600, every=0.3)
        assert training.wait() == 0, (tmp_path / "repro.log").read_text()
        wait_until(lambda: MlflowClient(url).get_run(run).info.status == "FINISHED", 30, every=0.5)
        cpu_seconds = sum(follower.cpu_times()[:2])
        history = read_json(folder / "history" / "pretrain" / "semmae-0.json")
        assert [step for step, _ in steps_of(url, run)] == [row["step"] for row in history]
        assert {"system/cpu_percent", "system/rss_mib"} <= MlflowClient(url).get_run(run).data.metrics.keys()

        monkeypatch.chdir(folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        written = replay()
        assert written.runs == {STAGE: run} and set(Counter(steps_of(url, run)).values()) == {1}
        assert [step for step, _ in steps_of(url, run)] == [row["step"] for row in history]
        followed = digests(folder)
        assert repro(folder, url, "--force", switch="0").wait(600) == 0 and digests(folder) == followed
        assert len(mlflow_runs(url)) == 2, "of the state and of the training"
    median, most = statistics.median(delays.values()), max(delays.values())
    print(
        f"{len(delays)} rows were in MLflow after {median:.1f} s (median), {most:.1f} s at most; {cpu_seconds:.1f} s of CPU"
    )
    wait_until(lambda: not psutil.pid_exists(follower.pid) or not processes(folder, FOLLOWER), 60)
