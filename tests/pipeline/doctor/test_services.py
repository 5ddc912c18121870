import os
import signal

from jobs.notes import read_note, write_note
from jobs.supervision import identity
from pipeline.doctor import flow_runs
from pipeline.doctor.checks import examine
from tests.pipeline.doctor.conftest import (
    mend,
)


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
