"""Workers on this machine: a process each, with a CUDA device of its own where there are any."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from jobs.cluster.spreading import LOST, Message, Work, Worker
from pipeline.slots import gpus

END_SECONDS = 5.0
GONE = (EOFError, BrokenPipeError, ConnectionResetError)


class LocalWorkers:
    """Processes that are known by their pipes. Raises ValueError where there are fewer CUDA devices than processes."""

    def __init__(self, work: Work, *, number: int, device: str) -> None:
        self.work = work
        self._free: list[str | None] = [None] * number
        if device == "cuda":
            self._free = list(gpus())
            if len(self._free) < number:
                raise ValueError(
                    f"runtime.yaml: shard_workers: got {number}, more than a process for each of the {len(self._free)} CUDA "
                    "devices that this stage has; lower it"
                )
        self._context = multiprocessing.get_context("spawn")
        self._hired: dict[Connection, tuple[BaseProcess, str | None]] = {}

    def __enter__(self) -> "LocalWorkers":
        return self

    def __exit__(self, *error: Any) -> None:
        for process, _ in self._hired.values():
            process.terminate()
        for pipe, (process, _) in self._hired.items():
            process.join(END_SECONDS)
            process.kill()
            process.join()
            pipe.close()

    def hire(self) -> Connection:
        """Start a process on a device that no other one has."""
        device = self._free.pop()
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, device, *self.work.described()), daemon=True)
        process.start()
        # The worker has the only other end now, so that the stream ends when it does.
        there.close()
        self._hired[here] = process, device
        return here

    def give(self, worker: Connection, arguments: Mapping[str, Any]) -> None:
        """Send the arguments; that a worker is gone is found by `messages`."""
        with suppress(*GONE):
            worker.send(arguments)

    def messages(self) -> Iterator[tuple[Connection, Message]]:
        """See `Crew`."""
        for pipe in wait(list(self._hired)):
            try:
                message = pipe.recv()
            except GONE:
                process, device = self._hired.pop(pipe)
                process.join()
                pipe.close()
                self._free.append(device)
                message = LOST, f"exit code {process.exitcode}"
            yield pipe, message


def _serve(pipe: Connection, device: str | None, folder: str, start: str, options: Mapping[str, Any]) -> None:
    """What the process runs until its parent closes the pipe, or is gone."""
    # Ctrl-C reaches the whole group of a terminal, and the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    worker = Worker(folder, start, options)
    with suppress(*GONE):
        for message in worker.load():
            pipe.send(message)
        while True:
            for message in worker.make(pipe.recv()):
                pipe.send(message)
