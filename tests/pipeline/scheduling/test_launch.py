"""How a flow run ends, and what of a form it walks."""

import contextlib
import shutil
from types import SimpleNamespace

import pytest

from config.presets import compose, write_params
from jobs.stage import Terminated
from pipeline.execution import CANCELLED, FAILED, RAN, SKIPPED, Outcome
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def launch():
    with contextlib.chdir(ROOT):
        from pipeline.scheduling import launch

    return launch


class Run:
    """A flow run as far as it is used, with what it was told."""

    id = "run"

    def __init__(self):
        self.said, self.artifacts, self.state = [], {}, None

    def say(self, text, **_):
        self.said.append(text)

    def ask(self, request):
        self.said.append("asked")

    def add_markdown(self, key, text):
        self.artifacts[key] = text

    def close(self, state, **_):
        self.state = state


@pytest.mark.parametrize(("statuses", "name", "code"), [
    ([], "Completed", 0), ([RAN], "Completed", 0), ([RAN, FAILED, SKIPPED], "Failed", 1), ([FAILED, CANCELLED], "Cancelled", 1),
])  # fmt: skip
def test_end__says_what_became_of_the_stages(launch, statuses, name, code):
    run, outcomes = Run(), [Outcome(f"stage{place}", status) for place, status in enumerate(statuses)]
    assert launch._until_it_ends(run, lambda: outcomes) == code
    assert run.state.name == name


@pytest.mark.parametrize(("error", "name", "message"), [
    (ValueError("parameters: bad"), "Failed", "parameters: bad"), (KeyboardInterrupt(), "Cancelled", None),
    (Terminated(), "Cancelled", None), (RuntimeError("a bug"), "Crashed", "a bug"),
])  # fmt: skip
def test_end__an_error_is_a_state_with_one_line_and_is_raised_again(launch, error, name, message):
    def walk():
        raise error

    run = Run()
    with pytest.raises(type(error)):
        launch._until_it_ends(run, walk)
    assert (run.state.name, run.state.message) == (name, message)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with presets and the quickstart's parameters."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    write_params(compose("quickstart"), preset="quickstart")


def test_form__renews_the_listing_before_it_looks_for_changes(launch, project, monkeypatch):
    calls = []
    monkeypatch.setattr(launch, "renew_listing", lambda _: calls.append("listing"))
    monkeypatch.setattr(launch, "Walk", lambda *_, **__: calls.append("walk") or SimpleNamespace(stages=["compare"]))
    monkeypatch.setattr(launch, "run_plainly", lambda *_, **__: calls.append("run") or [])
    run = Run()
    launch.walk_form(launch.Experiment(dry_run=True), run)
    launch.walk_form(launch.Experiment(), run)
    assert calls == ["listing", "walk", "listing", "run"]
    assert run.artifacts == {"would-run": "- compare"}


def test_form__one_arm_alone_gets_the_baseline_and_says_so(launch, project, monkeypatch):
    walked = []
    monkeypatch.setattr(launch, "renew_listing", lambda _: None)
    monkeypatch.setattr(launch, "run_plainly", lambda document, **_: walked.append(document["arms"]["names"]) or [])
    run = Run()
    launch.walk_form(launch.Experiment(arms=["block"]), run)
    assert walked == [["block", "mae"]] and "arm mae added" in run.said[-1]


def test_server_that_does_not_answer__is_a_warning_and_the_run_goes_on(launch, project, monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(launch, "run_plainly", lambda *_, **__: [Outcome("compare", RAN)])
    assert launch.run_under_prefect(compose("quickstart"), name="", preset="", targets=(), force=False) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert line.startswith("warning: Prefect does not show this run: ")
