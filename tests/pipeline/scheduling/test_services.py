import os
import socket
import subprocess
import sys

import pytest

from jobs.notes import write_note
from jobs.supervision import identity
from pipeline.scheduling import services


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


def test_up__what_is_up_is_not_started_twice(tree, sleeper):
    write_note(".semmae/services/services.json", {"worker": {"process": identity(sleeper.pid), "url": ""}})
    with pytest.raises(ValueError, match="worker: up already; `semmae down` ends them"):
        services.up(prefect_port=1, mlflow_port=1)


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
