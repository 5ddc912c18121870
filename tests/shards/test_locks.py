import multiprocessing
import os
import signal
import threading
import time

import pytest

from shards.locks import lock


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


def test_lock__waits_for_as_long_as_it_is_told(tmp_path):
    held = lock(tmp_path, "job")
    release = threading.Timer(0.3, held.close)
    release.start()
    started = time.monotonic()
    lock(tmp_path, "job", seconds=10.0).close()
    assert 0.2 < time.monotonic() - started < 5.0
    release.join()
    with lock(tmp_path, "job"), pytest.raises(ValueError, match="another process runs this very job"):
        lock(tmp_path, "job", seconds=0.1)
