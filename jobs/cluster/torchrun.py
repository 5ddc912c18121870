"""torchrun: the command that starts this node's share of the processes, and what such a process knows and reports.

`python -m jobs.cluster.torchrun` takes torchrun's own options and runs it; the end is an exit code and one line instead of
tracebacks. On one node the processes meet in a folder of this user and listen on loopback alone, and a user's mistake
is not tried again. On several nodes all of this is torchrun's way.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.supervision import SUPERVISOR, identity

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

# Exit codes of a process and of torchrun: a mistake that a user must mend; saved at SIGTERM.
MISTAKE, SAVED = 65, 128 + signal.SIGTERM
# Set for the processes of one node: the file in which they find each other.
STORE = "SEMMAE_STORE"
# Set to 1 for the processes of the node that DVC runs on: rank 0, which writes checkpoint and outs, is among them.
WRITER = "SEMMAE_WRITER"
# Loaded here, because nothing may be loaded between fork and exec.
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def rank() -> int | None:
    """Rank of this process among those that torchrun started, or None where it did not start this one.

    `RANK` alone says nothing: operators of clusters set it to the number of the machine.
    """
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def report(line: str, *, is_mistake: bool) -> int:
    """Print the line of an error, or leave it to torchrun, which prints that of one process; returns the exit code."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE", "") if rank() is not None else ""
    if not path:
        print(f"error: {line}", file=sys.stderr)
        return 1
    Path(path).write_text(json.dumps({"message": line, "timestamp": int(time.time())}), encoding="utf-8")
    return MISTAKE if is_mistake else 1


def share(world_size: int, nodes: int) -> int:
    """Processes of each node; ValueError where the nodes cannot have equal shares."""
    if world_size % nodes:
        raise ValueError(
            f"compute.world_size: got {world_size}, expected a multiple of the {nodes} nodes of runtime.yaml"
        )
    return world_size // nodes


def command(
    job: str, module: str, arguments: Sequence[str], *, world_size: int, nodes: int, rendezvous: str, restarts: int,
    join_seconds: int,
) -> list[str]:  # fmt: skip
    """The command that starts this node's share of the processes.

    Nodes meet under the name `job`, not its fingerprint: machines that differ in code or data then learn it from
    `Scratch`, instead of waiting for each other.
    """
    options = [f"--nnodes={nodes}", f"--nproc-per-node={share(world_size, nodes)}", f"--max-restarts={restarts}"]
    if nodes > 1:
        patience = f"join_timeout={join_seconds},read_timeout={join_seconds}"
        options += [
            "--rdzv-backend=c10d", f"--rdzv-endpoint={rendezvous}", f"--rdzv-id={job}", f"--rdzv-conf={patience}",
        ]  # fmt: skip
    return [sys.executable, "-m", "jobs.cluster.torchrun", *options, "-m", module, *arguments]


class Child:
    """A torchrun that ends with this process, and that has its processes save when this one gets SIGTERM."""

    def __init__(self, words: Sequence[str], *, writes: bool) -> None:
        self.was_stopped = False
        environment = {
            # Otherwise torchrun sets one thread and says so; each process sets what the parameters name.
            "OMP_NUM_THREADS": "1",
            **os.environ,
            SUPERVISOR: identity(os.getpid()),
            WRITER: str(int(writes)),
            # Otherwise the processes go on to share the store of the first start, also when its node is lost.
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
        # A session of its own: a signal to this process's group must not reach torchrun twice, it gives up at the second.
        self._process = subprocess.Popen(words, env=environment, start_new_session=True, preexec_fn=_prepare)

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        previous = signal.signal(signal.SIGTERM, self.stop)
        try:
            return self._process.wait()
        except BaseException:
            self.stop()
            self._process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)

    def stop(self, *_: object) -> None:
        """Have the processes save and end; may be called from a handler of signals."""
        if not self.was_stopped:
            self.was_stopped = True
            self._process.terminate()

    def stop_and_wait(self) -> None:
        """The same, and return when they have ended; for a handler that interrupts `wait`, which still needs the code."""
        self.stop()
        with contextlib.suppress(ChildProcessError):  # `wait` has the code already.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone, however it went; Linux alone can."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prepare() -> None:
    die_with_parent()
    # SLURM warns every process of a job before it ends it; this process's parent answers.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def main(arguments: Sequence[str]) -> int:
    """Run torchrun to its end; returns 0, `MISTAKE`, `SAVED` or 1, and prints why unless it saved."""
    from torch.distributed import DistError, run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.rendezvous.api import RendezvousClosedError, RendezvousError, RendezvousTimeoutError

    options = run.parse_args(list(arguments))
    try:
        return _run_alone(options) if options.nnodes == "1" else _run_once(options)
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except RendezvousClosedError:
        line = "another node gave up; its output says why"
    except RendezvousTimeoutError:
        line = f"not all {options.nnodes} nodes came to {options.rdzv_endpoint} in time; start the same job on each"
    except (RendezvousError, DistError) as error:
        reason = next(iter(str(error.__cause__ or error).splitlines()), "")
        line = (
            f"the rendezvous {options.rdzv_endpoint} does not answer ({reason}); start the same job on each node again"
        )
    _print(f"error: torchrun: {line}")
    return 1


def _run_alone(options: Namespace) -> int:
    """Run the processes of one node; after a loss all start again from the last checkpoint, after a mistake they do not."""
    interface = "lo0" if sys.platform == "darwin" else "lo"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    # Without = NCCL takes a name for the beginning of one.
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")
    restarts, options.max_restarts = options.max_restarts, 0
    options.rdzv_backend, options.rdzv_conf = "c10d", "store_type=file"
    while True:
        # A new store each time: the killed may have left half a line in the old one.
        with tempfile.TemporaryDirectory(prefix="semmae-torchrun-") as folder:
            options.rdzv_endpoint, os.environ[STORE] = f"{folder}/nodes", f"{folder}/processes"
            code = _run_once(options, last=not restarts)
        if code in (0, MISTAKE, SAVED) or not restarts:
            return code
        restarts -= 1
        _print(f"all processes start again from the last checkpoint ({restarts} restarts left)")


def _run_once(options: Namespace, *, last: bool = True) -> int:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    with tempfile.TemporaryDirectory(prefix="semmae-torchrun-") as options.log_dir:
        try:
            run.run(options)
            return 0
        except ChildFailedError as error:
            # The others follow from a mistake, else from a signal; torchrun's own order is by full seconds.
            first = min(
                error.failures.values(),
                key=lambda one: (one.exitcode != MISTAKE, one.exitcode == SAVED, one.exitcode > 0),
            )
            if first.exitcode != SAVED:
                _print(("error: " if last or first.exitcode == MISTAKE else "") + _described(first))
            return first.exitcode if first.exitcode in (MISTAKE, SAVED) else 1


def _described(failure: "ProcessFailure") -> str:
    """The line that the process left, or how it ended."""
    if Path(failure.error_file).is_file():
        return str(failure.message)
    how = (
        f"was ended by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with exit code {failure.exitcode}"
    )
    return f"torchrun: process {failure.pid} {how}"


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
