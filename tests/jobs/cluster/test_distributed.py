import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

from jobs.cluster.distributed import ALONE, Processes, join, settled_rank
from jobs.cluster.torchrun import WRITER
from jobs.scratch import Scratch
from tests.jobs.cluster.conftest import JOB, children, finish, outcome, record, start, wait_for_checkpoint, write
from training.loop import update
from training.optimiser import AdamW


def test_part__of_all_processes_is_the_whole_in_order():
    for count in (1, 5, 64):
        for world_size in range(1, min(count, 7) + 1):
            parts = [Processes(rank, world_size).part(count) for rank in range(world_size)]
            assert [i for part in parts for i in range(count)[part]] == list(range(count))
            sizes = [len(range(count)[part]) for part in parts]
            assert max(sizes) - min(sizes) <= 1


def test_alone__changes_nothing():
    value = torch.randn(3)
    assert torch.equal(ALONE.sum(value), value)
    assert ALONE.any(True) and not ALONE.any(False)
    assert ALONE.from_first(b"x") == b"x" and ALONE.from_first(None) is None


def pretend(monkeypatch, **variables):
    """What torchrun tells the processes that it starts."""
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": 0, "LOCAL_RANK": 0, **variables}.items():
        monkeypatch.setenv(name, str(value))


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
        super().__init__(rank, world_size)
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


def test_scratch__processes_of_different_jobs_are_refused_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.scratch.state_folder", lambda: tmp_path)
    same = together(2, lambda processes: Scratch("job", "abc", processes).folder.name)
    assert same == ["abc", "abc"]
    for error in together(2, lambda processes: Scratch("other", f"abc{processes.rank}", processes)):
        assert isinstance(error, ValueError) and "other: the processes differ in job, code" in str(error)
    assert not (tmp_path / "scratch" / "other").exists()


def assert_same_curve(one, other):
    """Sums of floats in another order: 1e-4 of each loss, 1e-3 of the largest weight after 30 steps of AdamW."""
    assert [row["step"] for row in one[0]] == [row["step"] for row in other[0]]
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine["hidden_ratio_std"] == pytest.approx(theirs["hidden_ratio_std"], rel=1e-5)
        assert mine["alpha"] == pytest.approx(theirs["alpha"], rel=1e-6)
    for name, weight in one[1].items():
        torch.testing.assert_close(weight, other[1][name], rtol=0, atol=1e-3 * max(1.0, float(weight.abs().max())))


@pytest.mark.slow
def test_pretrain__two_processes_and_micro_batches_give_the_curve_of_one(job, two_processes):
    finish(start(job))
    alone = outcome(job)
    write(job, batch_size=7, epochs=5, micro_batch=2)
    finish(start(job))
    assert_same_curve(alone, outcome(job))
    assert_same_curve(alone, two_processes)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_pretrain__a_signal_ends_all_processes_and_another_number_of_them_goes_on(job, two_processes, number, code):
    """SIGINT to the group, as a terminal sends it."""
    write(job, batch_size=7, epochs=5, world_size=2)
    process = start(job)
    wait_for_checkpoint(process, job)
    below = children(process.pid)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)
    assert not (job / "pretrained" / JOB).exists()
    assert (record(job)["status"], record(job)["device"]) == ("KILLED", "cpu")
    write(job, batch_size=7, epochs=5, world_size=1)
    assert "processes until then 2, now 1" in finish(start(job))
    assert_same_curve(two_processes, outcome(job))


def store_of(flags):
    """A store with every process's mark: whether it is the first on the node that DVC runs on."""
    store = torch.distributed.HashStore()
    for rank, flag in enumerate(flags):
        store.set(f"writer/{rank}", flag)
    return store


@pytest.mark.parametrize(("flags", "ranks"), [("0000", [0, 1, 2, 3]), ("1000", [0, 1, 2, 3]), ("0010", [2, 3, 0, 1])])
def test_settled_rank__the_node_that_dvc_runs_on_comes_first(monkeypatch, flags, ranks):
    monkeypatch.setenv("LOCAL_RANK", "0")
    found = []
    for rank, flag in enumerate(flags):
        monkeypatch.setenv(WRITER, flag)
        found.append(settled_rank(store_of(flags), rank, 4))
    assert found == ranks


def test_settled_rank__dvc_on_two_nodes_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match=r"DVC runs this stage on 2 nodes, each of which would write"):
        settled_rank(store_of("1010"), 3, 4)
