"""Pretraining of the tiny world by real processes: what the tests of its launchers share."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from config.presets import read_document, write_params
from jobs.notes import read_note

JOB = "semmae-0"


def make_job(folder, **compute):
    """The tiny world without what its pretraining makes, a checkpoint every step; a batch of 7 is shared unequally."""
    for path in (f"pretrained/{JOB}", f"history/pretrain/{JOB}.json", f"metrics/pretrain/{JOB}.json"):
        target = folder / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    write(folder, batch_size=7, epochs=5, **compute)
    write_runtime(folder, checkpoint_seconds=0)
    return folder


@pytest.fixture
def job(copied_world):
    return make_job(copied_world)


@pytest.fixture(scope="session")
def two_processes(world, tmp_path_factory):
    """History and weights of the job in two processes of one node, unbroken."""
    folder = Path(shutil.copytree(world, tmp_path_factory.mktemp("two") / "world", symlinks=True))
    make_job(folder, world_size=2)
    finish(start(folder))
    return outcome(folder)


def write(folder, *, batch_size, epochs, **compute):
    document = read_document(folder / "params.yaml")
    document["pretrain"].update(batch_size=batch_size, epochs=epochs)
    document["compute"].update(compute)
    write_params(document, folder / "params.yaml")


def write_runtime(folder, **changes):
    document = {**read_document(folder / "runtime.yaml"), **changes}
    (folder / "runtime.yaml").write_text(json.dumps(document))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(folder, stage="pretrain", **variables):
    command = [sys.executable, "-m", f"stages.{stage}", *JOB.split("-")]
    environment = {**os.environ, "PYTHONPATH": str(folder), **variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A group of its own, to which a test may send what a terminal does.
    return subprocess.Popen(command, cwd=folder, env=environment, process_group=0, **pipes)


def finish(process):
    """What it printed, when it has ended well."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def outcome(folder):
    """History and weights, which are removed."""
    history = json.loads((folder / "history" / "pretrain" / f"{JOB}.json").read_text())
    weights = load_file(folder / "pretrained" / JOB / "model.safetensors")
    shutil.rmtree(folder / "pretrained" / JOB)
    return history, weights


def record(folder, kind="records"):
    """The record of the last execution; kind "first": that of the first of its processes."""
    return read_note(folder / ".semmae" / kind / "pretrain.json")


def assert_same_bits(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(weight, other[1][name]) for name, weight in one[1].items())


def checkpoint(folder):
    """The one that is there, or None."""
    return next((folder / ".semmae" / "scratch").glob("*/*/checkpoint.pt"), None)


def wait_for_checkpoint(process, folder, steps=1):
    """Return when the running stage has saved after `steps` steps or later."""
    while True:
        assert process.poll() is None, process.communicate()[1]
        found = checkpoint(folder)
        if found is not None and step_of(found) >= steps:
            return
        time.sleep(0.005)


def step_of(path):
    """The steps that a checkpoint has behind it."""
    return torch.load(path, weights_only=True)["step"]


def children(pid):
    """Pids of all processes below one."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [lower for child in found for lower in children(child)]
