import os
import signal
import subprocess
import sys

import psutil

from jobs.supervision import SUPERVISOR, identity
from pipeline.doctor import stages
from pipeline.doctor.checks import examine
from tests.pipeline.doctor.conftest import (
    lines,
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


PLAIN = f"""
stages:
  make:
    cmd: exec {sys.executable} -c "print('ready', flush=True); import signal; signal.pause()"
    outs: [out]
"""


def test_abandoned_stages__of_a_dvc_that_was_killed_end_and_those_of_a_living_one_do_not(tree, monkeypatch):
    monkeypatch.setattr(stages, "ENDING_SECONDS", -1.0)
    (tree / "dvc.yaml").write_text(PLAIN)
    dvc = subprocess.Popen([sys.executable, "-m", "dvc", "repro"], cwd=tree, stdout=subprocess.PIPE, text=True)
    try:
        next(line for line in dvc.stdout if line == "ready\n")
        (stage,) = [one for one in psutil.Process(dvc.pid).children() if "signal.pause()" in " ".join(one.cmdline())]
        assert examine(repair=True) == []
        dvc.kill()
        dvc.wait()
        assert stage.is_running()
        (line,) = [line for line in lines(repair=True) if "rwlock" not in line]
        assert line.startswith(f"process {stage.pid} (") and line.endswith("a stage whose walk or DVC is gone; ended")
        assert not identity(stage.pid) and examine(repair=False) == []
    finally:
        dvc.kill()
        dvc.wait()
        dvc.stdout.close()


def test_abandoned_stages__one_that_has_time_left_to_end_itself_is_no_finding(tree, start):
    start("", **{SUPERVISOR: "1:0.00"})
    assert examine(repair=True) == []
