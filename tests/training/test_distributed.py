import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.presets import read_document, write_params
from training.distributed import ALONE, Processes, join, launched, torchrun

JOB = "semmae-0"


def test_part__of_all_processes_is_the_whole_in_order():
    for count in (1, 5, 64):
        for world_size in range(1, min(count, 7) + 1):
            parts = [Processes(rank, world_size, torch.device("cpu")).part(count) for rank in range(world_size)]
            assert [i for part in parts for i in range(count)[part]] == list(range(count))
            sizes = [len(range(count)[part]) for part in parts]
            assert max(sizes) - min(sizes) <= 1


def test_alone__changes_nothing():
    value = torch.randn(3)
    assert torch.equal(ALONE.sum(value), value)
    assert ALONE.any(True) and not ALONE.any(False)
    assert ALONE.from_first(b"x") == b"x" and ALONE.from_first(None) is None


def test_torchrun__shares_the_processes_among_the_nodes():
    assert torchrun({}, world_size=2)[1:] == ["--standalone", "--nproc-per-node=2"]
    assert torchrun({"PET_NNODES": "4"}, world_size=32)[1:] == ["--nproc-per-node=8"]
    with pytest.raises(ValueError, match=r"compute.world_size: got 6, expected a multiple of the 4 nodes"):
        torchrun({"PET_NNODES": "4"}, world_size=6)


def test_launched__one_process_does_its_work_itself(monkeypatch):
    assert not launched("nonesuch", [], world_size=1)
    monkeypatch.setenv("RANK", "0")
    assert not launched("nonesuch", [], world_size=2)


def test_join__another_number_of_processes_than_the_parameters_name_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"got 2, but torchrun started 3"), join(2, torch.device("cpu")):
        pass


@pytest.fixture
def job(copied_world):
    """The tiny world without what its pretraining makes; a batch of 7 that two processes share unequally."""
    for path in (f"pretrained/{JOB}", f"history/pretrain/{JOB}.json", f"metrics/pretrain/{JOB}.json"):
        target = copied_world / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    write(copied_world, batch_size=7, epochs=5)
    runtime = (copied_world / "runtime.yaml").read_text().replace("checkpoint_seconds: 30", "checkpoint_seconds: 0")
    (copied_world / "runtime.yaml").write_text(runtime)
    return copied_world


def write(folder, *, batch_size, epochs, **compute):
    document = read_document(folder / "params.yaml")
    document["pretrain"].update(batch_size=batch_size, epochs=epochs)
    document["compute"].update(compute)
    write_params(document, folder / "params.yaml")


def start(folder):
    command = [sys.executable, "-m", "stages.pretrain", *JOB.split("-")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, **pipes)


def finish(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def outcome(folder):
    """History and weights, which are removed."""
    history = json.loads((folder / "history" / "pretrain" / f"{JOB}.json").read_text())
    weights = load_file(folder / "pretrained" / JOB / "model.safetensors")
    shutil.rmtree(folder / "pretrained" / JOB)
    return history, weights


def assert_same_curve(one, other):
    """Sums of floats in another order: 1e-4 of each loss, 1e-3 of the largest weight after 30 steps of AdamW."""
    assert [row["step"] for row in one[0]] == [row["step"] for row in other[0]]
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine["hidden_ratio_std"] == theirs["hidden_ratio_std"]
    for name, weight in one[1].items():
        torch.testing.assert_close(weight, other[1][name], rtol=0, atol=1e-3 * max(1.0, float(weight.abs().max())))


def wait_for_checkpoint(process, folder):
    while not list((folder / ".semmae" / "scratch").glob("*/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.001)


def children(pid):
    """Pids of all processes below one."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [lower for child in found for lower in children(child)]


@pytest.mark.slow
def test_pretrain__two_processes_and_micro_batches_give_the_curve_of_one(job):
    finish(start(job))
    alone = outcome(job)
    write(job, batch_size=7, epochs=5, micro_batch=2)
    finish(start(job))
    assert_same_curve(alone, outcome(job))
    write(job, batch_size=7, epochs=5, world_size=2)
    output = finish(start(job))
    assert_same_curve(alone, outcome(job))
    assert output.count("images/s") == 1, "the first process alone prints"


@pytest.mark.slow
def test_pretrain__sigterm_ends_all_processes_with_143_and_another_number_of_them_goes_on(job):
    finish(start(job))
    unbroken = outcome(job)
    write(job, batch_size=7, epochs=5, world_size=2)
    process = start(job)
    wait_for_checkpoint(process, job)
    below = children(process.pid)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)
    assert not (job / "pretrained" / JOB).exists()
    write(job, batch_size=7, epochs=5, world_size=1)
    assert "resumes at step" in finish(start(job))
    assert_same_curve(unbroken, outcome(job))


@pytest.mark.slow
def test_pretrain__a_killed_process_ends_the_others_and_a_rerun_has_the_same_bits(job):
    write(job, batch_size=7, epochs=5, world_size=2)
    finish(start(job))
    unbroken = outcome(job)
    process = start(job)
    wait_for_checkpoint(process, job)
    below = children(process.pid)
    os.kill(below[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error: pretrain: one of the 2 processes ended early" in errors
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)
    assert "resumes at step" in finish(start(job))
    again = outcome(job)
    assert again[0] == unbroken[0]
    assert all(torch.equal(weight, again[1][name]) for name, weight in unbroken[1].items())
