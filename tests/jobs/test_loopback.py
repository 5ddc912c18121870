"""Libraries that ask this machine while the environment names a proxy."""

import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from jobs.loopback import reach_directly
from tests.conftest import ROOT

PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
ASK = {
    "urllib": "import urllib.request; urllib.request.urlopen(url, timeout=20).read()",
    "httpx": "import httpx; httpx.get(url, timeout=20).raise_for_status()",
    "requests": "import requests; requests.get(url, timeout=20).raise_for_status()",
}


@pytest.fixture
def server():
    """The port of a server on loopback that answers any question."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("library", ASK)
def test_loopback__no_proxy_is_asked_by_any_library(server, library):
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        # Nobody listens here: who asks it fails.
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        environment = {**os.environ, **dict.fromkeys(PROXIES, address), "no_proxy": "example.org", "NO_PROXY": ""}
        for imported, code in (("", 1), ("import jobs", 0)):
            urls = [f"http://{host}:{server}/" for host in ("127.0.0.1", "localhost")]
            program = f"{imported}\nfor url in {urls}: {ASK[library]}"
            command = [sys.executable, "-c", program]
            answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert answer.returncode == code, answer.stderr


def test_loopback__is_added_to_what_the_user_named(monkeypatch):
    monkeypatch.setenv("no_proxy", "a.org, b.org")
    monkeypatch.setenv("NO_PROXY", "b.org,c.org")
    reach_directly("127.0.0.1", "a.org")
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "a.org,b.org,c.org,127.0.0.1"
