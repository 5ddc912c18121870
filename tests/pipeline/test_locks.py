import multiprocessing
import os
import signal

import pytest

from pipeline.locks import lock


def hold(folder, ready):
    held = lock(folder, "job")
    ready.send(not held.closed)
    signal.pause()


def test_lock__is_held_by_one_process_and_freed_by_its_death(tmp_path):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    other = context.Process(target=hold, args=(tmp_path / "f", theirs))
    other.start()
    assert ours.recv()
    with pytest.raises(ValueError, match="job: another process runs this very job"):
        lock(tmp_path / "f", "job")
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    lock(tmp_path / "f", "job").close()
