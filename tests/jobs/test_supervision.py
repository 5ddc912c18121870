import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from jobs.supervision import end_command, end_tree, follow, identity, is_alive
from tests.conftest import ROOT, wait_until
from tests.pipeline.conftest import marked, runs

# A process that nobody can end but with SIGKILL.
STUBBORN = ["sh", "-c", "trap '' TERM; exec sleep 600"]
# A supervised process with a child of its own: argv is supervisor, seconds of grace, what it does at SIGTERM.
SUPERVISED = f"""
import signal, subprocess, sys, time
from jobs import supervision
supervision.LOOK_SECONDS, supervision.ORPHAN_SECONDS = 0.05, 0.3
supervision.GRACE_SECONDS = float(sys.argv[2])
def save(*_):
    print("saved", flush=True)
    raise SystemExit(143)
signal.signal(signal.SIGTERM, save if sys.argv[3] == "saves" else signal.SIG_IGN)
own = subprocess.Popen({STUBBORN})
supervision.follow(sys.argv[1])
print(own.pid, flush=True)
time.sleep(600)
"""
# Starts a child in a session of its own, and passes SIGTERM on to it once, as the stage above torchrun does.
FORWARDING = """
import signal, subprocess, sys
counting = '''
import signal, time
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
print("ready", flush=True)
while not heard:
    time.sleep(0.01)
time.sleep(0.5)
print(len(heard), flush=True)
'''
child = subprocess.Popen([sys.executable, "-c", counting], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
child.wait()
"""


def python(code, *words, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], env=environment, stdout=subprocess.PIPE, text=True, **options
    )


@pytest.fixture
def supervisor():
    """A process that only waits; killed at the end."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_identity__is_of_one_process_while_it_runs(supervisor):
    name = identity(supervisor.pid)
    assert is_alive(name) and identity(supervisor.pid) == name
    assert name != identity(os.getpid())
    supervisor.kill()
    wait_until(lambda: not runs(supervisor.pid))
    assert not is_alive(name), "a zombie answers for nothing any more"
    supervisor.wait()
    assert not is_alive(name) and identity(supervisor.pid) == ""


def test_identity__a_later_process_of_the_same_number_is_another():
    pid, _, started = identity(os.getpid()).partition(":")
    ticks, _, boot = started.partition("@")
    assert is_alive(f"{pid}:{ticks}@{boot}")
    assert not is_alive(f"{pid}:{int(ticks) - 1}@{boot}"), "an earlier holder of the number"
    assert not is_alive(f"{pid}:{ticks}@{boot[::-1]}x"), "the same before the machine was started again"
    assert not is_alive("")


def test_identity__does_not_change_when_the_clock_is_corrected(monkeypatch):
    before = identity(os.getpid())
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time() - 1e6)
    assert is_alive(before)


@pytest.mark.parametrize(("reaction", "grace", "code"), [("saves", 20, 143), ("ignores", 0.4, -signal.SIGKILL)])
def test_follow__a_killed_supervisor_ends_its_process_with_what_that_started(supervisor, reaction, grace, code):
    process = python(SUPERVISED, identity(supervisor.pid), str(grace), reaction)
    child = int(process.stdout.readline())
    time.sleep(0.2)
    assert process.poll() is None and runs(child), "the supervisor is alive: nobody ends"
    supervisor.kill()
    supervisor.wait()
    said, _ = process.communicate(timeout=20)
    assert process.returncode == code
    assert said.strip() == ("saved" if reaction == "saves" else "")
    wait_until(lambda: not runs(child))


def test_follow__without_a_supervisor_nothing_is_watched():
    before = {thread.ident for thread in threading.enumerate()}
    follow(None)
    follow("")
    assert {thread.ident for thread in threading.enumerate()} == before


@pytest.mark.parametrize("own_group", [True, False])
def test_end_tree__ends_grandchildren(own_group):
    script = "sleep 600 & sh -c 'sleep 600 & sleep 600; true' & wait"
    top = subprocess.Popen(["sh", "-c", script], process_group=0 if own_group else None)
    wait_until(lambda: len(psutil.Process(top.pid).children(recursive=True)) == 4)
    tree = [top.pid, *(child.pid for child in psutil.Process(top.pid).children(recursive=True))]
    started = time.monotonic()
    end_tree(top.pid)
    assert time.monotonic() - started < 5
    assert not any(map(runs, tree))
    assert top.wait() == -signal.SIGTERM, "its parent still gets its exit code"
    end_tree(top.pid)


@pytest.mark.parametrize("own_session", [True, False])
def test_end_tree__kills_who_does_not_listen_after_the_grace(mark, own_session):
    # What is killed from below would start its next child.
    stubborn = ["sh", "-c", f"trap '' TERM; sh -c 'sleep {mark}; true'; sleep {mark}; sleep {mark}"]
    below = f"import subprocess; subprocess.Popen({stubborn}, start_new_session=True).wait()"
    process = python(below) if own_session else subprocess.Popen(stubborn, process_group=0)
    wait_until(lambda: len(marked(mark)) == 3 + own_session)
    started = time.monotonic()
    end_tree(process.pid, grace=0.5)
    assert 0.4 < time.monotonic() - started < 5
    assert not marked(mark) and not runs(process.pid)
    process.wait()


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
def test_end_tree__no_child_that_is_being_forked_escapes(mark, trap):
    storm = f"{trap}for i in $(seq 400); do sleep {mark} & done; wait"
    top = subprocess.Popen(["sh", "-c", storm], process_group=0)
    wait_until(lambda: len(marked(mark)) > 5)
    end_tree(top.pid, grace=0.1 if trap else 10)
    assert not marked(mark)
    top.wait()


def test_end_tree__who_is_in_a_session_of_its_own_is_told_once_by_who_started_it():
    process = python(FORWARDING, process_group=0)
    assert process.stdout.readline() == "ready\n"
    end_tree(process.pid)
    assert process.stdout.readline() == "1\n"
    process.wait()


# Runs a command and says when that has ended, as DVC does before it writes dvc.lock; SIGTERM to itself would be heard.
WAITING = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: print("was told itself", flush=True))
print("ready", flush=True)
subprocess.run(sys.argv[1:])
print("ended by itself", flush=True)
"""


def test_end_command__who_waits_for_a_command_ends_by_itself_when_that_was_terminated(mark):
    process = python(WAITING, "sleep", mark, process_group=0)
    wait_until(lambda: len(marked(mark)) == 2)
    end_command(process.pid)
    assert process.communicate()[0].split("\n") == ["ready", "ended by itself", ""]
    assert process.returncode == 0 and not marked(mark)


def test_end_command__what_comes_to_nothing_by_that_is_ended_as_a_tree(mark):
    # The shell is what the process waits for: it ends, and its own child is left.
    script = f"trap '' TERM; sleep {mark} & trap - TERM; sleep {mark}; true"
    process = python(WAITING, "sh", "-c", script, process_group=0)
    wait_until(lambda: len(marked(mark)) == 4)
    end_command(process.pid, grace=1.0)
    assert not marked(mark)
    assert process.wait() == 0
