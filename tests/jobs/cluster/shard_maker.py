"""Work without models: it writes shards of numbers, and dies or fails at the shards that its options name."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np

from jobs.record import note
from shards.arrays import ArrayShardWriter


def making(*, journal, poison="", fault="", bug="", pause=0, dies_loading=False):
    """Every attempt at a shard is a line in the file `journal`: name, process, CUDA_VISIBLE_DEVICES."""
    if dies_loading:
        os.kill(os.getpid(), signal.SIGKILL)
    note(device="pretended")
    return partial(make, journal=journal, poison=poison, fault=fault, bug=bug, pause=pause)


def make(name, rows, target, *, journal, poison, fault, bug, pause):
    """Yields one image at a time, each after `pause` seconds."""
    with open(journal, "a") as file:
        file.write(f"{name} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n")
    assert name != bug, "a bug"
    with ArrayShardWriter(Path(target), columns={"a": ("<f4", (50,))}, header={"kind": "test"}, shard_rows=4) as writer:
        for row in range(rows):
            if row == 1 and name == poison:
                os.kill(os.getpid(), signal.SIGKILL)
            if row == 1 and name == fault:
                raise ValueError(f"{name}: damaged\n  in two lines")
            ids = np.array([int(name) * 1000 + row], dtype=np.uint64)
            writer.add(ids, a=np.random.default_rng(ids[0]).normal(size=(1, 50)))
            time.sleep(pause)
            yield 1
