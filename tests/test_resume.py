"""A training stage that is killed with -9 under `dvc repro` and run again gives the bits of the unbroken run.

Between the two, every infrastructure module changes: none is in the stage's key, so the checkpoint is found again.

`pytest tests/test_resume.py --kills 20` (`make chaos`) kills each stage at twenty moments instead of one.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from jobs.fingerprint import digest_of
from shards.files import read_json
from tests.test_keys import INFRASTRUCTURE

STAGES = {
    "train_teacher": ["teacher", "history/train_teacher.json", "metrics/train_teacher.json"],
    "refine_parts": ["part_learner", "history/refine_parts.json", "metrics/refine_parts.json"],
    "pretrain@semmae-0": ["pretrained/semmae-0", "history/pretrain/semmae-0.json", "metrics/pretrain/semmae-0.json"],
    "finetune@class-mae-1": ["finetuned/mae-1", "history/finetune/mae-1.json", "metrics/finetune/mae-1.json"],
}
# What a training prints of its images.
PROGRESS = "[1-9][0-9]*/[0-9]+"


def start(folder, stage, **options):
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        # Debian's, which stays above its command where bash gives it its place.
        "SHELL": "/bin/sh",
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "dvc", "repro", "-s", stage]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True, **options}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **options)


def finish(process):
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    return text


def wait_for_checkpoints(process, folder, count):
    """Return when the running stage has replaced its checkpoint `count` times."""
    seen, last = 0, None
    while seen < count:
        assert process.poll() is None, "the stage ended before it was killed:\n" + process.communicate()[0]
        found = list((folder / ".semmae" / "scratch").glob("*/*/checkpoint.pt"))
        stamp = found[0].stat().st_mtime_ns if found else None
        if stamp is not None and stamp != last:
            seen, last = seen + 1, stamp
        time.sleep(0.0005)


def moment_of_kill(history, key):
    """(checkpoints to wait for, seconds after the last) drawn from all of a run but its last steps, which may end it."""
    draw = random.Random(key)
    return draw.randint(1, max(1, json.loads(history.read_text())[-1]["step"] * 2 // 3)), draw.uniform(0, 0.02)


def pytest_generate_tests(metafunc):
    if "kill" in metafunc.fixturenames:
        metafunc.parametrize("kill", range(metafunc.config.getoption("--kills")))


@pytest.mark.family
@pytest.mark.parametrize("stage", STAGES)
def test_kill__resumes_to_the_bits_of_the_unbroken_run(copied_world, stage, kill):
    outs = [copied_world / out for out in STAGES[stage]]
    unbroken = [digest_of(out) for out in outs]
    checkpoints, delay = moment_of_kill(outs[1], f"{stage} {kill}")
    for out in outs:
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    runtime = (copied_world / "runtime.yaml").read_text().replace("checkpoint_seconds: 30", "checkpoint_seconds: 0")
    (copied_world / "runtime.yaml").write_text(runtime)
    process = start(copied_world, stage)
    wait_for_checkpoints(process, copied_world, checkpoints)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not any(out.exists() for out in outs)
    for path in (path for room in INFRASTRUCTURE for path in (copied_world / room).rglob("*.py")):
        path.write_text(path.read_text() + "\nCHANGED = True\n")
    text = finish(start(copied_world, stage))
    assert "resumes at step" in text
    assert [digest_of(out) for out in outs] == unbroken
    assert not list((copied_world / ".semmae" / "scratch").iterdir())


def read_until(terminal, pattern):
    """All that a terminal shows up to the pattern, or to its end."""
    shown = ""
    # At the end of the last process Linux answers EIO.
    with contextlib.suppress(OSError):
        while not re.search(pattern, shown):
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


@pytest.fixture
def long_world(copied_world):
    """One whose pretraining takes long enough to be interrupted, and prints how far it is."""
    parameters = copied_world / "params.yaml"
    parameters.write_text(parameters.read_text().replace("epochs: 5\n", "epochs: 80\n"))
    runtime = copied_world / "runtime.yaml"
    runtime.write_text(runtime.read_text().replace("log_seconds: 10\n", "log_seconds: 1\n"))
    return copied_world


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_kill__of_dvc_alone_ends_its_stage_which_has_saved(long_world, number):
    stage = "pretrain@semmae-0"
    process = start(long_world, stage)
    read_until(process.stdout.fileno(), PROGRESS)
    (training,) = psutil.Process(process.pid).children()
    process.send_signal(number)
    process.wait(timeout=60)
    training.wait(timeout=60)
    assert read_json(long_world / ".semmae" / "records" / f"{stage}.json")["status"] == "KILLED"
    assert re.search(r"resumes at step \d+ of", finish(start(long_world, stage)))


def test_ctrl_c__in_a_terminal_saves_and_the_rerun_resumes(long_world):
    """What a terminal sends to all of `dvc repro` at Ctrl-C lets the training save, with one line of ours."""
    stage = "pretrain@semmae-0"
    terminal, inside = os.openpty()
    own = {"preexec_fn": lambda: os.login_tty(inside), "start_new_session": False}
    process = start(long_world, stage, stdin=inside, stdout=inside, stderr=inside, **own)
    os.close(inside)
    shown = read_until(terminal, PROGRESS)
    os.write(terminal, b"\x03")
    shown += read_until(terminal, "(?!)")
    assert process.wait(timeout=60) == 255, shown
    assert "Traceback" not in shown
    assert shown.count("interrupted") == 1
    assert f"{stage}: interrupted; run it again to go on from what is saved" in shown
    assert "exited with 130" in shown
    assert read_json(long_world / ".semmae" / "records" / f"{stage}.json")["status"] == "KILLED"
    assert re.search(r"resumes at step \d+ of", finish(start(long_world, stage)))
