"""Who the servers of `semmae up` answer: this machine, and pages that came from them; no page of another site."""

import json
import urllib.error
import urllib.request

import psutil
import pytest

from tests.servers.conftest import ask, service

pytestmark = pytest.mark.slow
EVIL = "http://evil.example"


def answer(url, method="GET", data=None, **headers):
    """(status, headers) of a request."""
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as found:
            return found.status, found.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


def test_servers__listen_on_loopback_alone(served):
    folder, prefect, mlflow = served
    ports = set()
    for name in ("prefect", "mlflow", "worker"):
        process = psutil.Process(int(service(folder, name).partition(":")[0]))
        for one in (process, *process.children(recursive=True)):
            for connection in one.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    assert connection.laddr.ip == "127.0.0.1", (name, one.cmdline(), connection)
                    ports.add(connection.laddr.port)
    assert {int(prefect.rsplit(":", 1)[1]), int(mlflow.rsplit(":", 1)[1])} <= ports


def test_prefect__a_page_of_another_site_may_neither_ask_nor_tell(served):
    _, prefect, _ = served
    asked = {"Origin": EVIL, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    status, headers = answer(f"{prefect}/api/flow_runs/filter", "OPTIONS", **asked)
    assert status == 400 and "Access-Control-Allow-Origin" not in headers
    _, headers = answer(f"{prefect}/api/health", Origin=EVIL)
    assert "Access-Control-Allow-Origin" not in headers
    _, headers = answer(f"{prefect}/api/health", Origin=prefect)
    assert headers["Access-Control-Allow-Origin"] == prefect


def test_prefect__a_request_that_a_page_can_send_without_asking_changes_nothing(served):
    """A form or a blob goes out without a preflight; Prefect takes it for JSON where it has no content type."""
    _, prefect, _ = served
    before = ask(prefect, "variables/count")
    data = json.dumps({"name": "planted", "value": "x"}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        status, _ = answer(f"{prefect}/api/variables/", "POST", data, **{"Origin": EVIL, "Content-Type": kind})
        assert status == 403
    assert ask(prefect, "variables/count") == before


def test_prefect__its_page_asks_the_server_that_it_came_from(served):
    _, prefect, _ = served
    with urllib.request.urlopen(f"{prefect}/ui-settings", timeout=60) as found:
        settings = json.load(found)
    assert (settings["api_url"], settings["csrf_enabled"]) == ("/api", True)


def test_mlflow__another_name_or_site_is_refused(served):
    _, _, mlflow = served
    path = f"{mlflow}/api/2.0/mlflow/experiments/search"
    body = json.dumps({"max_results": 1}).encode()
    assert answer(path, "POST", body, **{"Content-Type": "application/json"})[0] == 200
    assert answer(path, "POST", body, **{"Content-Type": "application/json", "Origin": EVIL})[0] == 403
    assert answer(path, "POST", body, **{"Content-Type": "application/json", "Host": "evil.example"})[0] == 403
    assert answer(f"{mlflow}/", Host="evil.example:5000")[0] == 403


def test_worker__keeps_its_files_where_another_user_of_the_machine_is_not_in_its_way(served):
    folder, _, _ = served
    worker = psutil.Process(int(service(folder, "worker").partition(":")[0]))
    assert worker.environ()["TMPDIR"] == str(folder / ".semmae" / "services" / "temporary")
    assert (folder / ".semmae" / "services" / "temporary" / "runner_storage").is_dir()
