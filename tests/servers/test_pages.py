"""The web pages as a user goes through them: real servers, a real worker, a real browser, the tiny world.

A run is started from the form, watched, cancelled, started again beside a second one; then the runs are compared in MLflow.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.servers.conftest import (
    ENDED,
    FLOW,
    STAGE,
    ask,
    end_of,
    mlflow_runs,
    processes,
    semmae,
    submit_by_api,
)

TRIES = 5


def tree_of(folder):
    """What a user sees of the folder: every file that git or the user knows, with its content."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name: (folder / name).read_bytes() for name in listed if name}


@pytest.fixture
def page(browser):
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(120_000)
    yield opened
    opened.close()


def fill(page, prefect, **fields):
    """Open the form of the deployment and fill it, as a user finds it."""
    page.goto(f"{prefect}/deployments")
    page.get_by_text("pipeline", exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run", exact=False).click()
    for name, value in fields.items():
        box = page.locator(".schema-form-property", has_text=f"{name} (Optional)").last
        box.locator("input, textarea").first.fill(str(value))


def submit(page, prefect, **fields):
    """Submit the form; returns the id of the run, when it is scheduled.

    Prefect reads, then writes in one transaction. Where SQLite saw another write between, it answers 503; its page says "Oops"
    and does not try again, but a user does. Every other refusal fails the test.
    """

    def is_answer(response):
        return "/create_flow_run" in response.url or (response.status == 503 and "/schemas/validate" in response.url)

    for _ in range(TRIES):
        fill(page, prefect, **fields)
        with page.expect_response(is_answer) as answered:
            page.get_by_role("button", name="Submit").click()
        answer = answered.value
        if answer.status != 503:
            break
    assert answer.status == 201, f"{answer.status}: {answer.text()}"
    return answer.json()["id"]


def open_run(page, prefect, run):
    page.goto(f"{prefect}/runs/flow-run/{run}")


def end_on_page(page, prefect, run):
    """The state that a run ends in, as its page shows it. Drawing the page meanwhile would take a core from the run."""
    page.goto("about:blank")
    end_of(prefect, run)
    open_run(page, prefect, run)
    page.wait_for_function(
        "states => states.includes(document.querySelector('.state-badge')?.innerText.trim().toUpperCase())",
        arg=list(ENDED),
    )
    return page.locator(".state-badge").first.inner_text().strip()


def is_terminated(process):
    """Whether SIGTERM waits for this suspended process."""
    pending = re.search(r"^ShdPnd:\s+(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.M)[1]
    return int(pending, 16) >> (signal.SIGTERM - 1) & 1


@pytest.mark.slow
def test_pages__started_watched_cancelled_and_gone_on_with_beside_another(page, served, suspend):
    folder, prefect, mlflow = served
    logs = folder / ".semmae" / "worktrees" / "long" / ".semmae" / "logs"
    before, known = tree_of(folder), {run.info.run_id for run in mlflow_runs(mlflow)}

    def outcomes():
        return {run.info.status for run in mlflow_runs(mlflow) if run.info.run_id not in known}

    first = submit(page, prefect, Name="long", Epochs=400)
    trained = re.compile(r"pretrain (semmae|mae)-0: \d+/\d+ images")
    wait_until(lambda: any(trained.search(path.read_text()) for path in logs.glob(f"{first}/pretrain@*.log")), 120)
    trainings = suspend()
    open_run(page, prefect, first)
    # Watched: a stage's own lines are there while it runs.
    page.get_by_text(trained).first.wait_for()
    page.get_by_role("button", name="Cancel", exact=True).first.click()
    clicked = time.monotonic()
    page.get_by_role("button", name="Confirm").click()
    wait_until(lambda: all(is_terminated(training) for training in trainings), 120)
    for training in trainings:
        training.resume()
    assert end_on_page(page, prefect, first) == "Cancelled"
    print(f"cancelled in {time.monotonic() - clicked:.1f} s")
    # The state is told before the process of the run ends.
    wait_until(lambda: not processes(folder, f"{FLOW}|{STAGE}"), 30)
    assert list((folder / ".semmae" / "scratch").glob("pretrain-*/*/checkpoint.pt"))
    assert outcomes() == {"KILLED"}

    again = submit(page, prefect, Name="long", Epochs=400)
    other = submit(page, prefect, Name="other", **{"Mask Ratio": 0.5})
    assert end_on_page(page, prefect, again) == "Completed"
    assert any("resumes at step" in path.read_text() for path in logs.glob(f"{again}/pretrain@*.log"))
    assert end_on_page(page, prefect, other) == "Completed"
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text("stages", exact=True).first.click()
    page.get_by_text("pretrain@semmae-0").first.wait_for()
    assert page.get_by_role("link", name="run").count()

    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "show", "--csv"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    assert all(re.search(rf"^{name},", shown, re.M) for name in ("long", "other"))
    assert tree_of(folder) == before
    assert outcomes() == {"KILLED", "FINISHED"}
    assert {"cpu 0", "cpu 1"} <= {run.data.tags.get("slot") for run in mlflow_runs(mlflow)} or os.cpu_count() < 2


def test_pages__an_impossible_value_is_refused_before_a_run_exists(page, served):
    _, prefect, _ = served
    known = ask(prefect, "flow_runs/count")
    fill(page, prefect, **{"Mask Ratio": 7})
    page.get_by_role("button", name="Submit").click()
    page.get_by_text(
        re.compile("7 is greater than|less than|Parameters must be valid|exclusiveMaximum")
    ).first.wait_for()
    assert ask(prefect, "flow_runs/count") == known


@pytest.mark.slow
def test_failure__last_lines_and_the_command_that_repeats_it_are_on_the_page(page, served):
    _, prefect, mlflow = served
    form = {"name": "no-gpu", "other": ["compute.device=cuda"], "targets": ["train_teacher"]}
    run = submit_by_api(prefect, form)
    assert end_of(prefect, run) == "FAILED"
    artifacts = {
        found["key"]: found for found in ask(prefect, "artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})
    }
    assert {"failed-train-teacher", "stages"} <= artifacts.keys()
    page.goto(f"{prefect}/artifacts/artifact/{artifacts['failed-train-teacher']['id']}")
    page.get_by_text("this machine has no CUDA device").first.wait_for()
    told = artifacts["failed-train-teacher"]["data"]
    command = re.search(r"```\n(cd .*repro --single-item train_teacher)\n```", told)[1]
    again = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert again.returncode and "this machine has no CUDA device" in again.stderr
    assert "FAILED" in {
        one.info.status for one in mlflow_runs(mlflow) if one.data.tags.get("dvc_stage") == "train_teacher"
    }


@pytest.mark.slow
def test_pages__the_link_shows_the_result_and_the_curves_of_the_arms_are_three_clicks_away(page, served):
    folder, _, mlflow = served
    semmae(folder, "track")
    address = re.search(r"MLflow +(\S+)", semmae(folder, "summary"))[1]
    assert address.startswith(mlflow)
    page.set_viewport_size({"width": 2400, "height": 1000})
    page.goto(address)
    page.get_by_text(re.compile("^One seed and 30 test images")).first.wait_for()
    page.get_by_text("finetune_accuracy/semmae", exact=True).first.wait_for()
    page.get_by_role("button", name="Results").click()
    page.get_by_text("Pretraining", exact=True).click()
    # MLflow chooses the charts by the runs that are there when they are asked for.
    for arm in ("semmae", "mae"):
        page.get_by_role("link", name=f"{arm} 0 pretrain", exact=True).first.wait_for()
    page.locator("label:has(input[value=CHART])").click()
    page.get_by_text("training/loss", exact=True).first.wait_for()
    page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for(state="attached")
    state = next(run.info for run in mlflow_runs(mlflow) if run.info.run_name == "pipeline")
    page.goto(f"{mlflow}/#/experiments/{state.experiment_id}/runs/{state.run_id}")
    page.get_by_role("link", name="pretraining curves").first.wait_for()
    report = page.get_by_role("link", name="report", exact=True).first.get_attribute("href")
    page.goto(f"{mlflow}/{report.removeprefix(mlflow).lstrip('/')}")
    page.frame_locator("iframe").get_by_text("semmae against mae").first.wait_for(state="attached")


@pytest.mark.slow
def test_restored__an_experiment_without_any_change_has_as_many_comparable_runs_as_a_computed_one(served):
    folder, _, mlflow = served
    semmae(folder, "track")
    semmae(folder, "run", "--name", "unchanged")
    stages = {}
    for name in ("pipeline", "unchanged"):
        parent = next(run for run in mlflow_runs(mlflow) if run.info.run_name == name)
        below = [run for run in mlflow_runs(mlflow) if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        stages[name] = {run.data.tags["dvc_stage"]: (run.data.metrics, run.data.params) for run in below}
    assert stages["unchanged"] == stages["pipeline"]
    assert len(stages["pipeline"]) > 10
