"""The web pages as a user goes through them: real servers, a real worker, a real browser, the tiny world.

A run is started from the form, watched, cancelled, started again beside a second one; then the runs are compared in MLflow.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from dvc.repo import Repo

from pipeline.presets import read_document, write_params

pytestmark = pytest.mark.slow
SEMMAE = [sys.executable, "-c", "from pipeline.cli import main; main()"]
QUIET = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"}
MINUTE = 60_000


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def semmae(folder, *words):
    environment = {**os.environ, **QUIET, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    answer = subprocess.run(
        [*SEMMAE, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def tree_of(folder):
    """What a user sees of the folder: every file that git or the user knows, with its content."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name: (folder / name).read_bytes() for name in listed if name}


@pytest.fixture(scope="module")
def served(world, tmp_path_factory):
    """(folder, Prefect's address, MLflow's address) of a finished world of two arms and a seed, with everything up."""
    folder = tmp_path_factory.mktemp("pages") / "world"
    shutil.copytree(world, folder, symlinks=True)
    document = read_document(folder / "params.yaml")
    document["arms"]["names"], document["seeds"] = ["semmae", "mae"], [0]
    write_params(document, folder / "params.yaml")
    runtime = (folder / "runtime.yaml").read_text().replace("log_seconds: 10", "log_seconds: 1")
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


@pytest.fixture
def page(browser):
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(MINUTE)
    yield opened
    opened.close()


def submit(page, prefect, **fields):
    """Fill the form of the deployment and submit it; returns when the run is scheduled."""
    page.goto(f"{prefect}/deployments")
    page.get_by_text("pipeline", exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run", exact=False).click()
    for name, value in fields.items():
        box = page.locator(".schema-form-property", has_text=f"{name} (Optional)").last
        box.locator("input, textarea").first.fill(str(value))
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**tab=Runs**")


def open_run(page, prefect, name):
    """The page of the newest run of this name, as soon as it has begun."""
    page.goto(f"{prefect}/runs")
    page.get_by_role("link", name=name, exact=True).first.click()
    page.wait_for_url("**/runs/flow-run/**")


def wait_for_state(page, *states):
    """The run's state, when it is one of `states`."""
    badge = page.locator(".state-badge").first
    page.wait_for_function(
        "states => states.includes(document.querySelector('.state-badge')?.innerText.trim())", arg=list(states),
        timeout=5 * MINUTE,
    )  # fmt: skip
    return badge.inner_text().strip()


def stage_processes(folder):
    """Processes of stages, and of the DVC above them, that work in or below `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or ())
        if re.search(r"-m (stages\.|dvc )", words) and str(process.info["cwd"]).startswith(str(folder)):
            found.append(words)
    return found


def active_slots(prefect):
    request = urllib.request.Request(
        f"{prefect}/api/v2/concurrency_limits/filter", data=b"{}", headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return sum(limit["active_slots"] for limit in json.load(answer))


def mlflow_runs(mlflow):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow)
    return client.search_runs([client.get_experiment_by_name("semmae").experiment_id], max_results=1000)


def test_pages__started_watched_cancelled_and_gone_on_with_beside_another(page, served):
    folder, prefect, mlflow = served
    before = tree_of(folder)
    submit(page, prefect, Name="long", Epochs=400)
    open_run(page, prefect, "long")
    # Watched: a stage's own lines are there while it runs.
    page.get_by_text(re.compile(r"pretrain (semmae|mae)-0: \d+/\d+ images")).first.wait_for(timeout=2 * MINUTE)
    page.get_by_role("button", name="Cancel", exact=True).first.click()
    clicked = time.monotonic()
    page.get_by_role("button", name="Confirm").click()
    assert wait_for_state(page, "Cancelled", "Crashed", "Completed", "Failed") == "Cancelled"
    print(f"cancelled in {time.monotonic() - clicked:.1f} s")
    assert stage_processes(folder) == []
    assert active_slots(prefect) == 0
    assert list((folder / ".semmae" / "scratch").glob("pretrain-*/*/checkpoint.pt"))
    assert {run.info.status for run in mlflow_runs(mlflow)} == {"KILLED"}

    submit(page, prefect, Name="long", Epochs=400)
    submit(page, prefect, Name="other", **{"Mask Ratio": 0.5})
    open_run(page, prefect, "long")
    assert wait_for_state(page, "Cancelled", "Crashed", "Completed", "Failed") == "Completed"
    assert page.get_by_text(re.compile("resumes at step")).count()
    open_run(page, prefect, "other")
    assert wait_for_state(page, "Cancelled", "Crashed", "Completed", "Failed") == "Completed"
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text("stages", exact=True).first.click()
    page.get_by_text("pretrain@semmae-0").first.wait_for()
    assert page.get_by_role("link", name="run").count()

    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "show", "--csv"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    assert all(re.search(rf",{name},", shown) for name in ("long", "other"))
    assert tree_of(folder) == before
    assert {run.info.status for run in mlflow_runs(mlflow)} == {"KILLED", "FINISHED"}


def test_pages__an_impossible_value_is_refused_before_a_run_exists(page, served):
    _, prefect, _ = served
    page.goto(f"{prefect}/runs")
    page.goto(f"{prefect}/deployments")
    page.get_by_text("pipeline", exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run", exact=False).click()
    box = page.locator(".schema-form-property", has_text="Mask Ratio (Optional)").last
    box.locator("input").first.fill("7")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text(re.compile("7 is greater than|less than|Parameters must be valid|exclusiveMaximum")).first.wait_for()
    assert page.url.split("?")[0].endswith("/run")


def test_pages__arms_are_selected_and_their_charts_compared(page, served):
    """After a run of the walk from the terminal under the same servers, whose stages are all restored or unchanged."""
    folder, _, mlflow = served
    semmae(folder, "track")
    experiment = mlflow_runs(mlflow)[0].info.experiment_id
    page.goto(f"{mlflow}/#/experiments/{experiment}/runs?searchFilter=tags.stage%20%3D%20%22pretrain%22")
    page.get_by_text("pretrain@semmae-0").first.wait_for()
    for name in ("pretrain@semmae-0", "pretrain@mae-0"):
        row = page.locator("[role=row]", has_text=name).first
        row.locator("input[type=checkbox]").first.check(force=True)
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Comparing 2 Runs").first.wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    assert page.get_by_text("training/loss").count()
