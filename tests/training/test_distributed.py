import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.presets import read_document, write_params
from training.adamw import AdamW
from training.distributed import ALONE, Processes, join, launched, torchrun
from training.loop import update
from training.scratch import Scratch

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
    with pytest.raises(ValueError, match=r"PET_NNODES: got 1:4, expected the number of nodes"):
        torchrun({"PET_NNODES": "1:4"}, world_size=4)


def pretend(monkeypatch, **variables):
    """What torchrun tells the processes that it starts."""
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": 0, "LOCAL_RANK": 0, **variables}.items():
        monkeypatch.setenv(name, str(value))


def test_launched__one_process_does_its_work_itself(monkeypatch):
    assert not launched("nonesuch", [], world_size=1)
    pretend(monkeypatch, WORLD_SIZE=2)
    assert not launched("nonesuch", [], world_size=2)


def test_join__another_number_of_processes_than_the_parameters_name_is_refused(monkeypatch):
    pretend(monkeypatch, WORLD_SIZE=3)
    with pytest.raises(ValueError, match=r"got 2, but torchrun started 3"), join(2, torch.device("cpu")):
        pass


def test_join__the_rank_that_a_cluster_gives_its_machines_is_not_torchruns(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with join(1, torch.device("cpu")) as processes:
        assert processes == ALONE


def test_join__more_processes_than_the_machine_has_devices_are_refused(monkeypatch):
    pretend(monkeypatch, WORLD_SIZE=2, RANK=1, LOCAL_RANK=1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(ValueError, match=r"got 2, more than a process for each of the 1 CUDA"),
        join(2, torch.device("cuda")),
    ):
        pass


class Threads(Processes):
    """Threads in the place of processes, so that a law of theirs costs no start; sums are in the order of ranks."""

    def __init__(self, rank, world_size, meeting, given):
        super().__init__(rank, world_size, torch.device("cpu"))
        self.__dict__.update(meeting=meeting, given=given)

    def sum(self, value):
        self.given[self.rank] = value
        self.meeting.wait(timeout=10)
        total = torch.stack(self.given).sum(0)
        self.meeting.wait(timeout=10)
        return total

    def from_first(self, content):
        self.given[self.rank] = content
        self.meeting.wait(timeout=10)
        first = self.given[0]
        self.meeting.wait(timeout=10)
        return first


def together(world_size, work):
    """What work(processes) returns or raises in each of them."""
    meeting, given = threading.Barrier(world_size), [None] * world_size
    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(work, Threads(rank, world_size, meeting, given)) for rank in range(world_size)]
    return [future.exception() or future.result() for future in futures]


def updated(processes, *, micro_batch=7, spoiled=None):
    """Loss, gradient norm and weights after one update on this process's part of 7 images; `spoiled` is one of them."""
    torch.set_num_threads(1)
    model = torch.nn.Linear(4, 1)
    torch.nn.init.constant_(model.weight, 0.3)
    torch.nn.init.zeros_(model.bias)
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    if spoiled is not None:
        x[spoiled] = float("nan")
    optimizer = AdamW([{"params": model.parameters(), "weight_decay": 0.0}], lr=0.01)
    losses = (model(some).square().sum() / 7 for some in x[processes.part(7)].split(micro_batch))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    total, norm = update(losses, optimizer, clip=0.5, scaler=scaler, processes=processes)
    return total, norm, model.weight.detach(), model.weight.grad


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("micro_batch", [1, 2, 7])
def test_update__unequal_parts_and_micro_batches_are_the_batch_of_one(world_size, micro_batch):
    alone = updated(ALONE)
    for mine in together(world_size, partial(updated, micro_batch=micro_batch)):
        for one, other in zip(alone, mine, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("spoiled", [0, 3, 6])
def test_update__one_processs_non_finite_image_skips_the_step_of_all(spoiled):
    for total, norm, weight, _ in together(3, partial(updated, micro_batch=1, spoiled=spoiled)):
        assert not torch.isfinite(total) and not torch.isfinite(norm)
        assert bool((weight == 0.3).all())


def test_scratch__processes_of_different_jobs_are_told_so_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("training.scratch.state_folder", lambda: tmp_path)
    same = together(2, lambda processes: Scratch("job", "abc", processes).folder.name)
    assert same == ["abc", "abc"]
    for error in together(2, lambda processes: Scratch("other", f"abc{processes.rank}", processes)):
        assert isinstance(error, ValueError) and "other: the processes differ in job, code" in str(error)
    assert not (tmp_path / "scratch" / "other").exists()


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


def start(folder, **variables):
    command = [sys.executable, "-m", "stages.pretrain", *JOB.split("-")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder), **variables}, **pipes)


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
        assert mine["hidden_ratio_std"] == pytest.approx(theirs["hidden_ratio_std"], rel=1e-5)
        assert mine["alpha"] == pytest.approx(theirs["alpha"], rel=1e-6)
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
    assert "processes until then 2, now 1" in finish(start(job))
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
    assert "lost the other processes" in errors
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)
    assert "resumes at step" in finish(start(job))
    again = outcome(job)
    assert again[0] == unbroken[0]
    assert all(torch.equal(weight, again[1][name]) for name, weight in unbroken[1].items())


@pytest.mark.slow
def test_pretrain__two_nodes_that_share_no_folder_give_the_curve_of_one_process(job, tmp_path):
    finish(start(job))
    alone = outcome(job)
    (job / "history" / "pretrain" / f"{JOB}.json").unlink()
    write(job, batch_size=7, epochs=5, world_size=2)
    other = Path(shutil.copytree(job, tmp_path / "other", symlinks=True))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # RANK and WORLD_SIZE as operators of clusters set them on each machine.
    nodes = {"PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port, "WORLD_SIZE": "2"}
    started = [
        start(folder, **nodes, PET_NODE_RANK=str(rank), RANK=str(rank)) for rank, folder in enumerate((job, other))
    ]
    for process in started:
        finish(process)
    assert_same_curve(alone, outcome(job))
    assert not (other / "pretrained" / JOB).exists() and not (other / "history" / "pretrain" / f"{JOB}.json").exists()
