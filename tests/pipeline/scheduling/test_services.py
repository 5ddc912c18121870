import contextlib
import os
import shutil
import socket
import subprocess
import sys
from unittest.mock import Mock

import pytest

from jobs.notes import write_note
from jobs.supervision import identity
from pipeline.scheduling import services
from tests.conftest import wait_until


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder without any repository, and no server known."""
    monkeypatch.chdir(tmp_path)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def taken():
    """A port that another program has."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture
def sleeper():
    """A process that lives until it is ended."""
    process = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"], stdout=-1)
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("option", ["prefect", "mlflow"])
def test_up__a_taken_port_is_refused_by_the_name_of_its_option(tree, taken, option):
    ports = {"prefect_port": 1, "mlflow_port": 1, f"{option}_port": taken}
    with pytest.raises(
        ValueError, match=f"port {taken}: taken by another program; choose another with --{option}-port"
    ):
        services.up(**ports)
    assert services.state() == {}


@pytest.fixture
def free(monkeypatch):
    """Every port is free, and the tracking database is there."""
    monkeypatch.setattr(services, "_is_taken", lambda *_: False)
    monkeypatch.setattr(services, "client", lambda: contextlib.nullcontext(Mock()))


@pytest.mark.parametrize("missing", ["prefect", "mlflow", "worker"])
def test_up__starts_what_is_missing_and_nothing_else(tree, sleeper, free, monkeypatch, capsys, missing):
    up = {"process": identity(sleeper.pid), "url": "http://127.0.0.1:1"}
    write_note(".semmae/services/services.json", {
        name: up for name in ("prefect", "mlflow", "worker") if name != missing
    })  # fmt: skip
    started, form = [], []
    for name in ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):  # empty is not set
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(services, "_start", lambda name, *_, **__: started.append(name))
    monkeypatch.setattr(services, "deploy", lambda: form.append("registered"))
    monkeypatch.setattr(services, "_wait_for_form", lambda: form.append("works"))
    services.up(prefect_port=2, mlflow_port=3)
    assert (started, form) == ([missing], ["registered", "works"])
    shown = capsys.readouterr().out
    assert [f"{name}: up already" in shown for name in ("prefect", "mlflow", "worker")].count(True) == 2
    os.environ.pop("PREFECT_API_URL", None)


def test_up__a_prefect_of_the_users_own_that_does_not_answer_is_a_warning(tree, free, monkeypatch, capsys):
    started = []
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(services, "_start", lambda name, *_, **__: started.append(name))
    services.up(prefect_port=2, mlflow_port=3)
    shown = capsys.readouterr()
    assert started == ["mlflow"] and "Prefect" not in shown.out and "MLflow   " in shown.out
    (line,) = shown.err.splitlines()
    assert line.startswith("warning: Prefect at http://127.0.0.1:9/api does not answer (")


def test_state__a_copy_of_the_repository_has_not_the_services_of_its_original(tree, sleeper, monkeypatch):
    service = {"worker": {"process": identity(sleeper.pid), "url": ""}}
    write_note(".semmae/services/services.json", service)
    copy, moved = tree / "copy", tree.with_name("moved")
    shutil.copytree(tree / ".semmae", copy / ".semmae")
    monkeypatch.chdir(copy)
    assert services.state() == {}
    services.down()
    assert sleeper.poll() is None
    tree.rename(moved)
    monkeypatch.chdir(moved)
    assert services.state() == service


def test_up__ends_what_it_started_when_another_does_not_start(tree, sleeper, free, monkeypatch):
    write_note(".semmae/services/services.json", {"worker": {"process": identity(sleeper.pid), "url": ""}})
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    def start(name, *_, **__):
        write_note(".semmae/services/services.json", {
            **services.state(), name: {"process": identity(child.pid), "url": ""},
        })  # fmt: skip

    def deploy():
        wait_until(lambda: "mlflow" in services.state())
        raise ValueError("prefect: no")

    monkeypatch.setattr(services, "_start", start)
    monkeypatch.setattr(services, "deploy", deploy)
    with pytest.raises(ValueError, match="prefect: no"):
        services.up(prefect_port=2, mlflow_port=3)
    assert child.wait(timeout=30) is not None and sleeper.poll() is None
    assert services.state().keys() == {"worker"}


def test_down__ends_what_up_started_and_nothing_else(tree, sleeper, capsys):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        reused = identity(other.pid).replace(":", ":9", 1)
        write_note(".semmae/services/services.json", {
            "worker": {"process": identity(sleeper.pid), "url": ""}, "mlflow": {"process": reused, "url": ""},
        })  # fmt: skip
        services.down()
        assert sleeper.wait(timeout=30) is not None
        assert other.poll() is None
        assert services.state() == {}
        assert capsys.readouterr().out == "worker: ended\n"
    finally:
        other.kill()
        other.wait()


def test_down__with_nothing_up_says_so(tree, capsys):
    services.down()
    assert capsys.readouterr().out == "nothing is up\n"


def test_api_url__is_the_users_own_server_before_ours(tree, sleeper, monkeypatch):
    write_note(".semmae/services/services.json", {
        "prefect": {"process": identity(sleeper.pid), "url": "http://127.0.0.1:4200"},
    })  # fmt: skip
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    assert services.api_url() == "http://elsewhere/api"


def test_api_url__a_server_that_died_is_none(tree, sleeper):
    write_note(".semmae/services/services.json", {
        "prefect": {"process": identity(sleeper.pid), "url": "http://127.0.0.1:4200"},
    })  # fmt: skip
    sleeper.kill()
    sleeper.wait()
    assert services.api_url() == ""
    assert "PREFECT_API_URL" not in os.environ


def test_up__a_worker_that_ends_is_named_at_once_with_its_last_line(tree, sleeper):
    process = identity(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    write_note(services._folder() / "services.json", {"worker": {"process": process, "url": ""}})
    (services._folder() / "worker.log").write_text("Traceback\nPermissionError: [Errno 13]\n")
    with pytest.raises(
        ValueError, match=r"^worker: did not start; .*worker.log ends with: PermissionError: \[Errno 13\]$"
    ):
        services._wait_for_form()
