import contextlib
import fcntl
import itertools
import json
import multiprocessing
import os
import random
import signal
import threading
import time

import pytest

from pipeline import slots
from pipeline.slots import CPU, GPU, Needs, alone, needs_of, occupy
from tests.pipeline.conftest import held_slots

SPAWN = multiprocessing.get_context("spawn")
TWO = ("2", "7")


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine of two cores and two GPUs, and a folder outside of any repository for its slots."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEMMAE_SLOTS", raising=False)
    monkeypatch.setattr(slots, "cores", lambda: TWO)
    monkeypatch.setattr(slots, "gpus", lambda: TWO)
    monkeypatch.setattr(slots, "LOOK_SECONDS", 0.01)
    return tmp_path


def work(folder, seed, names, rounds):
    """Occupy at random and write down when what was held, from inside: an overlap of the records was an overlap indeed."""
    os.chdir(folder)
    slots.cores, slots.LOOK_SECONDS = (lambda: names), 0.001
    draw, seen = random.Random(seed), []
    for _ in range(rounds):
        with occupy(Needs(CPU, draw.randint(1, len(names)))) as held:
            started = time.monotonic()
            time.sleep(draw.uniform(0, 0.01))
            seen.append([started, time.monotonic(), held])
    (folder / f"seen-{seed}.json").write_text(json.dumps(seen))


def hold(folder, kind, count, ready, job=""):
    """Hold slots, or a job, until killed."""
    os.chdir(folder)
    slots.cores = slots.gpus = lambda: TWO
    with alone(job) if job else occupy(Needs(kind, count)):
        ready.send(True)
        signal.pause()


def holder(folder, kind=CPU, count=1, job=""):
    """A process that holds already."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=hold, args=(folder, kind, count, theirs, job))
    process.start()
    assert ours.recv()
    return process


def end(process):
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_occupy__never_more_holders_than_slots(machine):
    names = ("0", "1", "2")
    processes = [SPAWN.Process(target=work, args=(machine, seed, names, 30)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    seen = [held for file in machine.glob("seen-*.json") for held in json.loads(file.read_text())]
    assert len(seen) == 4 * 30
    assert all(set(held) <= set(names) and len(set(held)) == len(held) for _, _, held in seen)
    overlaps = 0
    for (start, end, held), (other_start, other_end, other) in itertools.combinations(seen, 2):
        if start < other_end and other_start < end:
            overlaps += 1
            assert not set(held) & set(other)
    assert overlaps, "the processes really were at it at the same time"
    assert held_slots() == []


@pytest.mark.parametrize("kind", [CPU, GPU])
def test_occupy__the_slot_of_a_killed_holder_is_free_at_once(machine, kind):
    process = holder(machine, kind, 2)
    assert held_slots() == [f"{kind}-{name}" for name in TWO]
    end(process)
    started = time.monotonic()
    with occupy(Needs(kind, 2)) as names:
        assert time.monotonic() - started < 0.5
        assert tuple(names) == TWO
    assert held_slots() == []


def test_occupy__who_wants_many_holds_nothing_while_it_waits_and_its_wait_can_be_cancelled(machine):
    process = holder(machine)
    cancelled, taken = threading.Event(), []

    def take_the_free_one():
        for _ in range(20):
            with occupy(Needs(CPU, 1)) as names:
                taken.append(names)
        cancelled.set()

    other = threading.Thread(target=take_the_free_one)
    other.start()
    with pytest.raises(InterruptedError), occupy(Needs(CPU, 2), is_cancelled=cancelled.is_set):
        pytest.fail("there is one slot only")
    other.join()
    assert taken == [["7"]] * 20
    assert held_slots() == ["cpu-2"]
    end(process)


def test_occupy__repositories_share_the_slots_of_one_machine_where_they_are_told_to(machine, monkeypatch):
    for name in ("one", "other"):
        (machine / name).mkdir()
    monkeypatch.setenv("SEMMAE_SLOTS", str(machine / "shared"))
    process = holder(machine / "one", GPU)
    monkeypatch.chdir(machine / "other")
    with occupy(Needs(GPU, 1)) as names:
        assert names == ["7"]
    monkeypatch.delenv("SEMMAE_SLOTS")
    with occupy(Needs(GPU, 1)) as names:
        assert names == ["2"], "without it each has its own"
    end(process)


def test_occupy__an_error_inside_frees_the_slot(machine):
    with pytest.raises(RuntimeError), occupy(Needs(GPU, 1)) as names:
        assert names == ["2"] and held_slots() == ["gpu-2"]
        raise RuntimeError
    assert held_slots() == []


def test_occupy__every_device_has_a_name_of_its_own(machine):
    with occupy(Needs(GPU, 1)) as first, occupy(Needs(GPU, 1)) as second, occupy(Needs(CPU, 1)) as core:
        assert (first, second, core) == (["2"], ["7"], ["2"])


@pytest.mark.parametrize(
    ("device", "threads", "processes", "allowed", "expected"),
    [
        ("cpu", 1, 1, "auto", Needs(CPU, 1)),
        ("cpu", 2, 1, "auto", Needs(CPU, 2)),
        ("cpu", 16, 1, "auto", Needs(CPU, 2)),
        ("gpu", 4, 1, "auto", Needs(GPU, 1)),
        ("gpu", 4, 2, "cuda", Needs(GPU, 2)),
        ("gpu", 4, 8, "cuda", Needs(GPU, 2)),
        ("gpu", 1, 1, "cpu", Needs(CPU, 1)),
        ("gpu", 1, 2, "cpu", Needs(CPU, 2)),
    ],
)
def test_needs_of__a_gpu_for_each_process_or_a_core_for_each_thread(device, threads, processes, allowed, expected):
    assert needs_of(device, threads=threads, processes=processes, allowed=allowed) == expected


def test_needs_of__without_a_gpu_everything_is_for_the_cores(monkeypatch):
    monkeypatch.setattr(slots, "gpus", lambda: ())
    assert needs_of("gpu", threads=1, processes=1, allowed="auto") == Needs(CPU, 1)


@pytest.mark.parametrize(("cores", "threads"), [(2, 1), (8, 2), (8, 3), (4, 8)])
def test_needs_of__as_many_stages_at_once_as_cores_hold_their_threads(monkeypatch, machine, cores, threads):
    monkeypatch.setattr(slots, "cores", lambda: tuple(map(str, range(cores))))
    needs = needs_of("cpu", threads=threads, processes=1, allowed="auto")
    count = 0
    with contextlib.ExitStack() as held, contextlib.suppress(InterruptedError):
        while True:
            tries_once = iter([False, True]).__next__
            held.enter_context(occupy(needs, is_cancelled=tries_once))
            count += 1
    assert count == max(1, cores // threads)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("0,1", ("0", "1")), ("3, 5", ("3", "5")), ("", ()), ("-1", ()), ("GPU-a/1", ("GPU-a/1",))],
)
def test_gpus__are_those_of_cuda_visible_devices(monkeypatch, machine, variable, expected):
    monkeypatch.undo()
    monkeypatch.chdir(machine)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    slots.gpus.cache_clear()
    try:
        assert slots.gpus() == expected
        if expected:
            with occupy(Needs(GPU, len(expected))) as names:
                assert tuple(names) == expected
    finally:
        slots.gpus.cache_clear()


def test_cores__are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.undo()
    assert set(map(int, slots.cores())) == os.sched_getaffinity(0)
    assert slots.available(CPU) == len(os.sched_getaffinity(0))


def claim(folder, seed, rounds):
    """Add to a number in a file, which goes wrong when two do it at once."""
    os.chdir(folder)
    slots.LOOK_SECONDS = 0.0005
    for _ in range(rounds):
        with alone("a job"):
            count = int((folder / "count").read_text())
            time.sleep(0.001)
            (folder / "count").write_text(str(count + 1))


def test_alone__one_at_a_time(machine):
    (machine / "count").write_text("0")
    processes = [SPAWN.Process(target=claim, args=(machine, seed, 40)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (machine / "count").read_text() == str(3 * 40)
    assert list((machine / ".semmae" / "jobs").iterdir()) == []


def test_alone__waits_for_the_same_job_only_until_its_holder_is_gone_or_it_is_cancelled(machine):
    process = holder(machine, job="a job")
    cancelled, told = threading.Event(), []

    def on_wait():
        told.append(1)
        cancelled.set()

    with alone("another job", on_wait=on_wait):
        assert not told
    with pytest.raises(InterruptedError), alone("a job", is_cancelled=cancelled.is_set, on_wait=on_wait):
        pytest.fail("somebody is at it")
    assert told == [1]
    end(process)
    with alone("a job"):
        pass


def test_alone__a_lock_on_a_file_that_is_gone_keeps_nobody_out_and_does_not_count(machine, monkeypatch):
    first, flock = contextlib.ExitStack(), fcntl.flock
    first.enter_context(alone("a job"))

    def late(file, operation):
        """The holder goes away between opening and locking."""
        first.close()
        flock(file, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        second = contextlib.ExitStack()
        second.enter_context(alone("a job"))
    tries_once = iter([False, True]).__next__
    with second, pytest.raises(InterruptedError), alone("a job", is_cancelled=lambda: tries_once()):
        pytest.fail("two at the same job")
