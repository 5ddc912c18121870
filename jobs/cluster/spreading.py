"""Make shards side by side: in this process, in several processes of this machine, or in a Ray cluster.

A shard depends on its task alone, so its bytes are the same whoever makes it. It appears whole or not at all: a worker that
dies costs the shards in work, and a killed run continues with what is missing.
"""

import multiprocessing
import os
import signal
from collections.abc import Mapping, MutableSequence, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from config.params import Runtime
from jobs.cluster.ray_actors import make_on_ray
from jobs.cluster.work import TRIES, Task, Work, Worker
from jobs.kept_shards import KeptShards
from jobs.progress import Meter, progress
from jobs.record import note
from jobs.supervision import follow, identity

LOOK_SECONDS = 0.2


def make_missing(
    work: Work, tasks: Sequence[Task], kept: KeptShards, runtime: Runtime, *, threads: int, device: str
) -> None:
    """Make those shards of `tasks` that no earlier run has kept, and show the progress.

    threads: cores that a worker occupies on a CPU. device: `cpu` or `cuda`. Raises ValueError in the words of the worker
    that raised it, and when `TRIES` workers were lost.
    """
    # Each is read and compared with its hash.
    label = f"{kept.job}: looking for kept shards"
    looked = progress(tasks, total=len(tasks), label=label, unit="shards", seconds=runtime.log_seconds)
    missing = [task for task in looked if not kept.has(task.key)]
    total, left = (sum(task.images for task in some) for some in (tasks, missing))
    reuse = f"{len(tasks) - len(missing)} of {len(tasks)} shards are reused{f'; {kept.why_missing}' if missing else ''}"
    note(reuse=reuse)
    print(f"{kept.job}: {reuse}", flush=True)
    if not missing:
        return
    meter = Meter(total, label=kept.job, done=total - left, seconds=runtime.log_seconds)
    placed = [task._replace(arguments={**task.arguments, "target": kept.place(task.key)}) for task in missing]
    number = min(runtime.shard_workers, len(placed))
    if runtime.engine == "ray":
        make_on_ray(work, placed, meter, address=runtime.ray_address, number=number, threads=threads, device=device)
    elif number == 1:
        worker = Worker(work, os.getcwd())
        for task in placed:
            worker.make(task.arguments, meter.advance)
    else:
        _make_in_processes(work, placed, kept, meter, number=number, device=device)
    meter.close()


def _make_in_processes(
    work: Work, tasks: Sequence[Task], kept: KeptShards, meter: Meter, *, number: int, device: str
) -> None:
    """Make the shards in `number` processes; when one is lost, a new pool makes what is missing then."""
    devices = _devices(number) if device == "cuda" else []
    missing, lost = dict(enumerate(tasks)), 0
    # Images done, by task. Without a lock, which a killed process might keep: each process writes the slot of its task.
    done = multiprocessing.get_context("spawn").RawArray("q", len(tasks))
    while missing:
        try:
            _make_in_pool(work, missing, done, meter, number=min(number, len(missing)), devices=devices)
            return
        except BrokenProcessPool:
            lost += 1
            missing = {place: task for place, task in missing.items() if not kept.has(task.key)}
            for place in missing:
                done[place] = 0
            if missing and lost == TRIES:
                names = ", ".join([task.name for task in missing.values()][:3] + ["..."] * (len(missing) > 3))
                raise ValueError(
                    f"a worker was lost, {TRIES} times: its process was killed; {len(missing)} shards are missing ({names}); "
                    "check the memory of this machine and run again, finished shards are kept"
                ) from None
            print(
                f"{kept.job}: a worker was lost: its process was killed; {len(missing)} shards are missing", flush=True
            )


def _make_in_pool(
    work: Work,
    tasks: Mapping[int, Task],
    done: MutableSequence[int],
    meter: Meter,
    *,
    number: int,
    devices: Sequence[str],
) -> None:
    """Make the shards in one pool of processes, and end these however this ends."""
    context = multiprocessing.get_context("spawn")
    free = context.SimpleQueue()
    for device in devices:
        free.put(device)
    others = set(multiprocessing.active_children())
    begin = (work, os.getcwd(), identity(os.getpid()), done, free if devices else None)
    pool = ProcessPoolExecutor(number, mp_context=context, initializer=_begin, initargs=begin)
    # Ctrl-C reaches all processes of a terminal, and the stage ends its workers: they start with it blocked.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        waiting = {pool.submit(_make, place, task.arguments) for place, task in tasks.items()}
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        while waiting:
            finished, waiting = wait(waiting, LOOK_SECONDS, FIRST_COMPLETED)
            for future in finished:
                note(**future.result())
            # Images of a lost shard are made again, and count once.
            images = sum(done) - (meter.done - meter.first)
            if images > 0:
                meter.advance(images)
    except BaseException:
        # The pool would wait for the shards in work.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


# Of a process of a pool: its worker, and images done by task.
_worker: Worker
_done: MutableSequence[int]


def _begin(work: Work, folder: str, stage: str, done: MutableSequence[int], devices: Any) -> None:
    """Prepare a process of the pool; it ends with the stage."""
    global _worker, _done
    follow(stage)
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices.get()
    _worker, _done = Worker(work, folder), done


def _make(place: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    def advance(images: int) -> None:
        _done[place] += images

    return _worker.make(arguments, advance)


def _devices(number: int) -> list[str]:
    """A CUDA device for each of the processes; ValueError where there are fewer."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = (
        visible.replace(" ", "").split(",") if visible else [str(place) for place in range(torch.cuda.device_count())]
    )
    if len(names) < number:
        raise ValueError(
            f"runtime.yaml: shard_workers: got {number}, more than one for each of the {len(names)} CUDA devices of this "
            "stage; lower it"
        )
    return names[:number]
