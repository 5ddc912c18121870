import os
import signal

from jobs.supervision import SUPERVISOR, identity
from pipeline.doctor import stages
from pipeline.doctor.checks import examine
from tests.pipeline.doctor.conftest import (
    mend,
)


def test_abandoned_stages__end_and_those_of_a_living_walk_do_not(tree, start, monkeypatch):
    walk = start("")
    stage = start("", **{SUPERVISOR: identity(walk.pid)})
    followed = start("", **{SUPERVISOR: identity(os.getpid())})
    monkeypatch.setattr(stages, "ENDING_SECONDS", -1.0)
    assert examine(repair=True) == []
    os.kill(walk.pid, signal.SIGKILL)
    walk.wait()
    mend([f"process {stage.pid} ("])
    assert not identity(stage.pid)
    assert followed.poll() is None


def test_abandoned_stages__one_that_has_time_left_to_end_itself_is_no_finding(tree, start):
    start("", **{SUPERVISOR: "1:0.00"})
    assert examine(repair=True) == []
