"""Servers listen on loopback unless told otherwise, say so where they are, and show no password to who lists processes."""

import contextlib
import socket

import pytest

from pipeline.scheduling import services

CANARY = "c4n4ry"


@pytest.fixture
def started(tmp_path, monkeypatch):
    """What `up` would have started: name -> (words, settings)."""
    found = {}

    def start(name, words, url, *, health, settings=None):
        found[name] = (words, settings or {})

    @contextlib.contextmanager
    def client():
        yield type("Client", (), {"search_experiments": lambda *_, **__: []})()

    monkeypatch.chdir(tmp_path)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PREFECT_HOME", *services.QUIET):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setattr(services, "_start", start)
    monkeypatch.setattr(services, "deploy", lambda: None)
    monkeypatch.setattr(services, "_wait_for_form", lambda: None)
    monkeypatch.setattr(services, "client", client)
    monkeypatch.setattr(services, "_is_taken", lambda host, port: False)
    return found


def host_of(words):
    return words[words.index("--host") + 1]


def test_up__listens_on_loopback_and_warns_of_nothing(started, capsys):
    services.up(prefect_port=4200, mlflow_port=5000)
    assert {host_of(started[name][0]) for name in ("prefect", "mlflow")} == {"127.0.0.1"}
    said = capsys.readouterr()
    assert said.err == "" and "http://127.0.0.1:4200/deployments" in said.out
    origins = started["prefect"][1]["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert set(origins) == {"http://127.0.0.1:4200", "http://localhost:4200"}
    assert started["mlflow"][1]["MLFLOW_SERVER_ALLOWED_HOSTS"] == "127.0.0.1:5000,localhost:5000"


def test_up__on_every_address_it_warns_and_answers_by_the_names_of_this_machine_alone(started, capsys):
    services.up(prefect_port=4200, mlflow_port=5000, host="0.0.0.0")
    assert host_of(started["prefect"][0]) == "0.0.0.0" == host_of(started["mlflow"][0])
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("warning: 0.0.0.0: no authentication: ") and "can run code as you" in line
    assert "http://127.0.0.1:4200/deployments" in said.out
    hosts = started["mlflow"][1]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {f"{socket.gethostname()}:5000", "127.0.0.1:5000", "localhost:5000"} <= set(hosts)
    assert not any("*" in value for _, settings in started.values() for value in settings.values())


def test_up__what_the_user_has_set_is_kept(started, monkeypatch):
    monkeypatch.setenv("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "https://prefect.example.org")
    services.up(prefect_port=4200, mlflow_port=5000)
    assert "PREFECT_SERVER_CORS_ALLOWED_ORIGINS" not in started["prefect"][1]


def test_up__a_password_is_in_no_command_and_on_no_screen(started, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://mlflow:{CANARY}@db/mlflow")
    services.up(prefect_port=4200, mlflow_port=5000)
    words, settings = started["mlflow"]
    assert CANARY not in " ".join(words) and CANARY in settings["MLFLOW_BACKEND_STORE_URI"]
    monkeypatch.setenv("PREFECT_API_URL", f"https://user:{CANARY}@prefect.example.org/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://user:{CANARY}@mlflow.example.org")
    services.up(prefect_port=4200, mlflow_port=5000, host="0.0.0.0")
    said = capsys.readouterr()
    assert CANARY not in said.out + said.err and "https://***@prefect.example.org/deployments" in said.out
    assert said.err == ""


@pytest.mark.parametrize("host", ["", "localhost", "::", "::1", "203.0.113.77", "0.0.0.0; id", "-rf", "127.0.0.1\n", "256.1.1.1",
                                  "example.org", "127.1", "a\0b"])  # fmt: skip
def test_up__an_address_that_is_none_of_this_machine_is_refused(started, host):
    with pytest.raises(ValueError, match="expected an IPv4 address of this machine, or 0.0.0.0 for all") as error:
        services.up(prefect_port=4200, mlflow_port=5000, host=host)
    assert not started and "\n" not in str(error.value)
