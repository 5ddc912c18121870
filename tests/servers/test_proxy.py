"""Servers, worker and clients on a machine whose environment names a proxy, and empty addresses of servers."""

import selectors
import socket

import pytest

from tests.conftest import make_world
from tests.jobs.test_loopback import PROXIES
from tests.servers.conftest import end_of, free_port, mlflow_runs, semmae, submit_by_api

pytestmark = pytest.mark.slow


def test_proxy__nothing_on_this_machine_asks_it(tmp_path, monkeypatch):
    (folder := tmp_path / "world").mkdir()
    make_world(folder)
    prefect, mlflow = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    with socket.socket() as proxy, selectors.DefaultSelector() as waiting:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        waiting.register(proxy, selectors.EVENT_READ)
        for name in PROXIES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
            monkeypatch.setenv(name, "")
        try:
            ports = [address.rpartition(":")[2] for address in (prefect, mlflow)]
            shown = semmae(folder, "up", "--prefect-port", ports[0], "--mlflow-port", ports[1])
            assert f"Prefect  {prefect}/deployments" in shown
            with monkeypatch.context() as patch:
                patch.setenv("no_proxy", "127.0.0.1")  # of the test's own questions
                form = submit_by_api(prefect, {"targets": ["generate_creatures@creatures"]})
                assert end_of(prefect, form) == "COMPLETED" and mlflow_runs(mlflow)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
            semmae(folder, "run", "generate_creatures@creatures", "--force")
        finally:
            semmae(folder, "down")
        assert not waiting.select(0), "somebody asked the proxy"
