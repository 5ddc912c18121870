"""torchrun as the stages start it: `python -m jobs.cluster.agent OPTIONS -m MODULE ARGUMENTS`, with torchrun's options.

Differs from `torch.distributed.run` in four things. What the user must mend and what SIGTERM ended is not begun again,
for the same would come of it. A lost process costs a line, not the tracebacks of those who waited for it. And where
the node that hosts the rendezvous is not there, or is lost, this waits for it as for any other node. One node alone opens
no port (`jobs.cluster.loopback`).
"""

import signal
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from torch.distributed import DistError, run
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousTimeoutError,
)
from torch.distributed.launcher import api as launcher

from jobs.cluster import loopback
from jobs.stage import MISTAKE, SAVED

FAILED = 1
# The others look at the rendezvous once a second, and its host must not be gone before they saw how it ended.
LINGER_SECONDS = 3.0


class Agent(LocalElasticAgent):
    """Starts this node's processes and looks after them; begins again with all nodes where one was lost."""

    # Of any agent of this process: all nodes were there.
    has_joined = False

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        Agent.has_joined = True
        result = super()._monitor_workers(worker_group)
        if result.is_failed():
            first = cause(result.failures.values())
            if first.exitcode in (MISTAKE, SAVED):
                self._remaining_restarts = 0
            elif self._remaining_restarts:
                nodes = worker_group.group_world_size
                when = f" when all {nodes} nodes are there" if nodes > 1 else ""
                tell(
                    f"{described(first)}; all processes begin again from the last checkpoint{when} "
                    f"({self._remaining_restarts - 1} restarts left)"
                )
        return result


def main(arguments: list[str]) -> int:
    """Run torchrun to its end; returns 0, `MISTAKE`, `SAVED` or `FAILED`, of which all but `SAVED` have told why."""
    launcher.LocalElasticAgent = Agent
    loopback.register()
    with tempfile.TemporaryDirectory(prefix="semmae-torchrun-") as folder:
        # The endpoint is that of one node; several name theirs, and the last word counts.
        options = run.parse_args([f"--log-dir={folder}", f"--rdzv-endpoint={folder}", *arguments])
        try:
            _run(options)
            return 0
        except SignalException as stopped:
            return 128 + stopped.sigval
        except ChildFailedError as error:
            return _failed(cause(error.failures.values()), is_alone=options.nnodes == "1")
        except RendezvousClosedError:
            tell("error: torchrun: another node gave up; what it says is why")
        except RendezvousTimeoutError:
            tell(
                f"error: torchrun: not all {options.nnodes} nodes came to {options.rdzv_endpoint} within "
                f"{_patience(options)} s; start the same job on each"
            )
        except (RendezvousConnectionError, DistError) as error:
            said = next(iter(str(error.__cause__ or error).splitlines()), "")
            tell(
                f"error: torchrun: nobody answers at the rendezvous {options.rdzv_endpoint} ({said}); start the same job on "
                "the node of that name"
            )
        return FAILED


def _failed(first: ProcessFailure, *, is_alone: bool) -> int:
    """Say why the processes failed, and return the exit code."""
    if first.exitcode != SAVED:
        tell(f"error: {described(first)}")
    if not is_alone:
        # Nothing runs here that would have to save.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(LINGER_SECONDS)
    return first.exitcode if first.exitcode in (MISTAKE, SAVED) else FAILED


def _run(options: Namespace) -> None:
    """torchrun, which ends where the rendezvous cannot be reached; begun again while there is time and a restart left."""
    left, deadline = options.max_restarts, time.monotonic() + _patience(options)
    while True:
        try:
            run.run(options)
            return
        except (RendezvousConnectionError, DistError):
            if Agent.has_joined and left:
                left, Agent.has_joined = left - 1, False
                deadline = time.monotonic() + _patience(options)
                tell(
                    f"the rendezvous {options.rdzv_endpoint} is lost; waits for its node, at most {_patience(options)} s"
                )
            elif Agent.has_joined or time.monotonic() > deadline:
                raise
            # Nothing runs here that would have to save.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(1)


def cause(failures: Iterable[ProcessFailure]) -> ProcessFailure:
    """The failure that the others follow from: a mistake, else who was killed, else who failed, else who was stopped."""

    def place(failure: ProcessFailure) -> int:
        return [failure.exitcode == MISTAKE, failure.exitcode < 0, failure.exitcode != SAVED, True].index(True)

    return min(failures, key=place)


def described(failure: ProcessFailure) -> str:
    """What the process itself left as its line, or how it ended."""
    if Path(failure.error_file).is_file():
        return str(failure.message)
    if failure.exitcode < 0:
        return f"torchrun: process {failure.pid} was ended by {failure.signal_name()}"
    return f"torchrun: process {failure.pid} ended with exit code {failure.exitcode}"


def tell(line: str) -> None:
    """Print a line for people, at once."""
    print(line, file=sys.stderr, flush=True)


def _patience(options: Namespace) -> int:
    """Seconds to wait for a missing node."""
    settings = dict(pair.split("=", 1) for pair in options.rdzv_conf.split(",") if pair)
    return int(settings.get("join_timeout", 0))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
