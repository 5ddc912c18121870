import os
import subprocess
import sys
import time

import psutil

from pipeline.doctor.processes import was_made_by, with_variable


def start(**environment):
    command = [sys.executable, "-c", "print('ready', flush=True); input()"]
    child = subprocess.Popen(
        command, env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    return child


def test_was_made_by__a_process_that_lives_lived_then_and_has_these_words():
    with start() as child:
        assert was_made_by(child.pid, time.time())
        assert was_made_by(child.pid, time.time(), "-c input()")
        assert not was_made_by(child.pid, time.time(), "-c output()")
        assert not was_made_by(child.pid, time.time() - 3600)
        child.communicate("done")
    assert not was_made_by(child.pid, time.time())


def test_was_made_by__a_process_that_has_ended_and_is_not_yet_waited_for_is_gone():
    with start() as child:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert psutil.pid_exists(child.pid)
        assert not was_made_by(child.pid, time.time())


def test_with_variable__names_the_processes_that_have_it():
    with start(SEMMAE_TEST=f"of {os.getpid()}") as child:
        found = {process.pid: value for process, value in with_variable("SEMMAE_TEST")}
        assert found[child.pid] == f"of {os.getpid()}"
        assert os.getpid() not in found
        child.communicate("done")
