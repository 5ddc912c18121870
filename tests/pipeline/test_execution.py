import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from jobs.progress import Meter
from pipeline import execution, slots
from pipeline.execution import CACHED, CANCELLED, FAILED, RAN, UNCHANGED, Outcome, execute, progress_of
from pipeline.slots import CPU, GPU, Needs
from tests.conftest import wait_until
from tests.pipeline.conftest import enter_copy, held_slots, make_small, marked, runs

ONE_CORE = Needs(CPU, 1)
STAGES = """
stages:
  writes:
    cmd: mkdir -p out; cat mine/image.txt > out/written; printf 'one\\ntwo'
    deps: [mine/image.txt]
    outs: [out/written]
  fails:
    cmd: for i in $(seq 100); do echo line $i; done; echo run >> fails.txt; echo 'ERROR. Unable to acquire lock'; exit 3
    outs: [out/never]
  waits:
    cmd: mkdir -p out; echo waits; while [ ! -e go ]; do sleep 0.05; done; echo run >> waits.txt; echo done > out/waited
    deps: [mine/image.txt]
    outs: [out/waited]
  counts:
    cmd: python -m stages.counts
    deps: [stages/counts.py]
    outs: [out/counted.txt]
"""
# A stage in the project's own loop, whose result depends on every one of its steps.
COUNTS = """
import time
from pathlib import Path
from types import SimpleNamespace

from jobs.stage import run
from training.loop import train
from jobs.scratch import Scratch


class Sum:
    value = 1

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


class Counting:
    label, seed, steps, batch_size = "counts", 0, 150, 1

    def __init__(self, total):
        self.total, self.state = total, {"sum": total}

    def step(self, number):
        time.sleep(0.02)
        self.total.value = (self.total.value * 31 + number) % 1_000_003
        return {"loss": 1.0}


def main():
    total = Sum()
    with Scratch("counts", "f" * 32) as scratch:
        train(Counting(total), scratch=scratch, runtime=SimpleNamespace(checkpoint_seconds=1000, log_seconds=0.01, live=False))
        Path("out").mkdir(exist_ok=True)
        Path("out/counted.txt").write_text(str(total.value))


if __name__ == "__main__":
    run(main)
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory, surroundings):
    """A repository whose stages never ran."""
    return make_small(
        tmp_path_factory.mktemp("execution"), STAGES, {"stages/__init__.py": "", "stages/counts.py": COUNTS}
    )


@pytest.fixture
def small(template, tmp_path, monkeypatch):
    """The same repository for one test, as the current folder."""
    return enter_copy(template, tmp_path / "small", monkeypatch)


@pytest.fixture
def run(small, monkeypatch, tmp_path):
    """Run a stage of the small repository, or `script` instead of DVC; its lines are in `run.lines`."""

    def call(stage, *, script="", needs=ONE_CORE, patience=60.0, on_line=lambda line: None, **options):
        if script:
            monkeypatch.setattr(execution, "command_of", lambda stage, force: ["sh", "-c", script])

        def keep(line):
            call.lines.append(line)
            on_line(line)

        return execute(
            stage, root=small, needs=needs, job=stage, log=call.log, on_line=keep, cancelled=call.cancelled,
            patience=patience, **options,
        )  # fmt: skip

    call.lines, call.log, call.cancelled = [], tmp_path / "logs" / "stage.log", threading.Event()
    yield call
    assert held_slots() == []


def test_execute__tells_what_ran_from_what_was_restored_or_did_not_change(run, small):
    outcomes = [run("writes")]
    (small / "out" / "written").unlink()
    outcomes += [run("writes"), run("writes"), run("writes", force=True)]
    assert [outcome.status for outcome in outcomes] == [RAN, CACHED, UNCHANGED, RAN]
    assert all(outcome.is_done and outcome.last_lines == () for outcome in outcomes)
    assert (small / "out" / "written").read_text() == "an image"
    assert outcomes[0].device == "cpu 0" and outcomes[0].seconds > 0
    assert "one" in run.lines and outcomes[0].log == str(run.log)


def test_execute__a_failure_gives_its_last_lines_and_is_not_tried_again(run, small):
    outcome = run("fails")
    assert outcome.status == FAILED and not outcome.is_done
    assert len(outcome.last_lines) == execution.LAST_LINES
    assert "line 100" in outcome.last_lines and "line 1" not in outcome.last_lines
    assert outcome.last_lines[-1].startswith("ERROR: failed to reproduce 'fails': failed to run:")
    assert outcome.last_lines[-1].endswith("exited with 3")
    assert run.log.read_text().splitlines().count("line 1") == 1
    assert (small / "fails.txt").read_text().splitlines() == ["run"], "a message of the stage about locks is not DVC's"


@pytest.mark.slow
def test_execute__a_lock_of_another_dvc_is_waited_for(run, small):
    """The other one runs the same stage: `.dvc/tmp/rwlock` lists it."""
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", "waits"]
    with subprocess.Popen(command, cwd=small, stdout=subprocess.PIPE, text=True) as other:
        wait_until(lambda: other.stdout.readline() == "waits\n")

        def let_go(line):
            if line.startswith("waits for another DVC: ") and "is busy" in line:
                (small / "go").touch()

        assert run("waits", on_line=let_go).status == UNCHANGED
        assert (small / "go").exists()
        other.communicate()
    assert other.returncode == 0
    assert (small / "waits.txt").read_text().splitlines() == ["run"]


def test_execute__the_whole_output_is_in_the_log_and_every_line_is_heard(run):
    script = "seq 1 200000; printf '\\377\\n\\n  end without a newline'"
    assert run("x", script=script).status == RAN
    content = run.log.read_bytes()
    assert content == b"".join(b"%d\n" % n for n in range(1, 200001)) + b"\xff\n\n  end without a newline"
    assert run.lines == [*map(str, range(1, 200001)), "�", "  end without a newline"]


def test_execute__what_is_said_just_before_the_end_is_heard(run, monkeypatch):
    poll = subprocess.Popen.poll

    def poll_late(process):
        code = poll(process)
        if code is not None and "late" not in run.log.read_text():
            with run.log.open("a") as log:
                log.write("late\n")
        return code

    monkeypatch.setattr(subprocess.Popen, "poll", poll_late)
    run("x", script="echo early; sleep 0.5")
    assert run.lines == ["early", "late"]


def test_execute__a_process_that_a_stage_leaves_behind_does_not_hold_it_up(run, mark):
    started = time.monotonic()
    assert run("x", script=f"sleep {mark} & echo last").status == RAN
    assert time.monotonic() - started < 5
    assert run.lines == ["last"]


def test_execute__a_stage_that_says_nothing_is_ended_by_the_watchdog(run, mark):
    outcome = run("x", script=f"echo begins; sleep {mark}; exit 1", patience=0.5)
    assert outcome.status == FAILED
    assert outcome.last_lines[0] == "begins" and "taken to hang" in outcome.last_lines[1]
    assert not marked(mark)


def test_execute__a_slow_stage_that_speaks_is_left_alone(run):
    script = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.3; done"
    assert run("x", script=script, patience=1.0).status == RAN
    assert run.lines == list("123456")


def test_execute__who_hears_the_lines_and_fails_leaves_no_process(run, mark):
    def fail(line):
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="begins"):
        run("x", script=f"echo begins; sleep {mark}; true", on_line=fail)
    assert not marked(mark)


def test_execute__the_same_job_of_another_walk_is_waited_for(run):
    with slots.alone("x"):
        threading.Timer(0.3, run.cancelled.set).start()
        assert run("x", script="echo never") == Outcome("x", CANCELLED)
    assert run.lines == ["waits: another walk runs this very job"]


def test_execute__a_gpu_is_named_to_the_stage_and_cores_are_not(run):
    script = 'echo "${CUDA_VISIBLE_DEVICES-none}"'
    with slots.occupy(Needs(GPU, 1)):
        outcome = run("x", script=script, needs=Needs(GPU, 1))
    assert (run.lines, outcome.device) == (["9"], "gpu 9")
    run("x", script=script, needs=Needs(GPU, 2))
    run("x", script=script, needs=Needs(CPU, 2))
    assert run.lines == ["9", "4,9", "none"]


def test_execute__python_is_the_one_of_this_environment(run, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    run("x", script="command -v python")
    assert run.lines == [os.path.join(os.path.dirname(sys.executable), "python")]


# Executes a stage in a process of its own, which is killed.
EXECUTING = """
import sys, threading
from pathlib import Path
from pipeline.execution import execute
from pipeline.slots import CPU, Needs
execute("counts", root=Path.cwd(), needs=Needs(CPU, 1), job="counts", log=Path("out/log"), cancelled=threading.Event(),
        on_line=lambda line: print(line, flush=True), patience=60)
"""


@pytest.mark.slow
def test_execute__a_cancelled_or_orphaned_training_saves_and_goes_on_to_the_bits_of_the_unbroken_one(run, small):
    """Once its supervisor is killed with -9, once it is cancelled; then it runs to its end."""
    (small / "out").mkdir(exist_ok=True)
    walk = subprocess.Popen([sys.executable, "-c", EXECUTING], cwd=small, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: "/150 images" in walk.stdout.readline())
    tree = [process.pid for process in psutil.Process(walk.pid).children(recursive=True)]
    assert held_slots() == ["cpu-0"]
    walk.kill()
    walk.wait()
    assert held_slots() == []
    wait_until(lambda: not any(map(runs, tree)))
    checkpoint = small / ".semmae" / "scratch" / "counts" / ("f" * 32) / "checkpoint.pt"
    saved = checkpoint.stat().st_mtime_ns

    def cancel(line):
        if "/150 images" in line:
            run.cancelled.set()

    outcome = run("counts", on_line=cancel)
    assert outcome.status == CANCELLED
    assert any("counts: resumes at step" in line for line in run.lines)
    assert any("exited with 143" in line for line in run.lines), run.lines[-4:]
    assert checkpoint.stat().st_mtime_ns > saved

    run.cancelled.clear()
    assert run("counts").status == RAN
    value = 1
    for number in range(150):
        value = (value * 31 + number) % 1_000_003
    assert (small / "out" / "counted.txt").read_text() == str(value)


@pytest.mark.parametrize(("line", "share"), [("teacher: 120 images, 5 images/s", None), ("0/0 images", None)])
def test_progress_of__other_lines_report_none(line, share):
    assert progress_of(line) == share


def test_progress_of__reads_the_line_of_a_meter(capsys):
    Meter(4, label="teacher", seconds=0.0).advance(1)
    assert progress_of(capsys.readouterr().out) == 0.25
