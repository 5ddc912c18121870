import os
import signal

from jobs.notes import read_note, write_note
from jobs.supervision import identity
from pipeline.doctor import flow_runs
from pipeline.doctor.checks import examine
from tests.pipeline.doctor.conftest import lines, mend


def test_dead_services__are_forgotten_and_living_ones_kept(tree, start, monkeypatch):
    living, dead = start(""), start("")
    noted = {"prefect": {"process": identity(living.pid), "url": "http://127.0.0.1:9"}}
    path = tree / ".semmae" / "services" / "services.json"
    write_note(path, {**noted, "worker": {"process": identity(dead.pid), "url": ""}})
    # The living server does not answer in this test.
    monkeypatch.setattr(flow_runs, "api_url", lambda: "")
    assert examine(repair=True) == []
    os.kill(dead.pid, signal.SIGKILL)
    dead.wait()
    mend(["worker is gone"])
    assert read_note(path) == noted


def test_dead_flow_runs__a_server_that_does_not_answer_is_a_line(tree, monkeypatch):
    def refuse():
        raise OSError("connection refused")

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(flow_runs, "client", refuse)
    (line,) = lines(repair=True)
    assert line.startswith("dead flow runs: could not be examined: connection refused")
