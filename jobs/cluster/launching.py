"""Who starts the processes that train together: this stage by torchrun, on one node or on each of several, or SLURM."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from config.params import Runtime
from jobs.cluster.distributed import WRITER, die_with_parent
from jobs.cluster.loopback import BACKEND
from jobs.record import torchrun_rank
from jobs.stage import MISTAKE, SAVED, Terminated


def launched(module: str, arguments: Sequence[str], *, world_size: int, runtime: Runtime) -> bool:
    """Run the stage `module` in `world_size` processes and say so; False where this process is to do the work itself.

    A single process does, and so does one that torchrun has started. SIGTERM goes on to the processes, which save what
    they have; they do not outlive this one. Of several nodes each calls this, and starts its share. Raises `Terminated`
    after SIGTERM, ValueError when the processes cannot be started or are lost for good, and SystemExit when they failed
    by what torchrun has told.
    """
    if torchrun_rank() is not None or (runtime.launcher == "local" and runtime.nodes == world_size == 1):
        return False
    job = "-".join([module.rpartition(".")[2], *arguments])
    if runtime.launcher == "slurm":
        _slurm().run_job(job, module, arguments, world_size=world_size, runtime=runtime)
        return True
    if os.environ.get("PET_NNODES", str(runtime.nodes)) != str(runtime.nodes):
        raise ValueError(
            f"PET_NNODES: got {os.environ['PET_NNODES']}, but runtime.yaml has nodes: {runtime.nodes}; set nodes and "
            "rendezvous there and unset the variable"
        )
    options = torchrun(
        job,
        world_size=world_size,
        nodes=runtime.nodes,
        rendezvous=runtime.rendezvous,
        restarts=runtime.restarts,
        join_seconds=runtime.join_seconds,
    )
    child = Child([*options, "-m", module, *arguments], writes="DVC_STAGE" in os.environ)
    code = child.wait()
    if code and child.was_stopped:
        raise Terminated
    if code == MISTAKE:
        raise SystemExit(1)
    if code == SAVED:
        raise ValueError("SIGTERM ended one of the processes, and all have saved; start the job again, on every node")
    if code:
        raise ValueError(
            f"the {world_size} processes ended early (torchrun's exit code is {code}, its lines stand above); mend that and "
            "run again, it goes on from the last checkpoint"
        )
    return True


def _slurm():
    """The module that needs submitit."""
    try:
        from jobs.cluster import slurm
    except ModuleNotFoundError as error:
        if error.name != "submitit":
            raise
        raise ValueError("launcher: slurm needs the package submitit: pip install 'semmae[slurm]'") from None
    return slurm


def torchrun(
    job: str,
    *,
    world_size: int,
    nodes: int,
    rendezvous: str,
    restarts: int,
    join_seconds: int,
    is_host: bool | None = None,
    address: str = "",
) -> list[str]:
    """Module and options that start this node's share of the processes.

    Nodes meet as `job`, not as its fingerprint: so machines that differ in code or data are told so at once, by
    `Scratch`, where they would otherwise wait for each other. is_host: whether this node hosts the rendezvous, None: as
    its name says; address: the name under which the others reach this node, empty: as the machine calls itself.
    Raises ValueError where the nodes cannot have equal shares.
    """
    if world_size % nodes:
        raise ValueError(
            f"compute.world_size: got {world_size}, expected a multiple of the {nodes} nodes of runtime.yaml"
        )
    share = [f"--nnodes={nodes}", f"--nproc-per-node={world_size // nodes}", f"--max-restarts={restarts}"]
    if nodes == 1:
        return ["jobs.cluster.agent", f"--rdzv-backend={BACKEND}", *share]
    host = "" if is_host is None else f",is_host={int(is_host)}"
    return [
        "jobs.cluster.agent",
        *share,
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={rendezvous}",
        f"--rdzv-id={job}",
        f"--rdzv-conf=join_timeout={join_seconds}{host}",
        *([f"--local-addr={address}"] if address else []),
    ]


class Child:
    """A torchrun that ends with this process, and that has its processes save when this one gets SIGTERM."""

    def __init__(self, words: Sequence[str], *, writes: bool) -> None:
        self.was_stopped = False
        # A session of its own: a signal to this process's group must not reach torchrun twice, it gives up at the second.
        self._process = subprocess.Popen(
            [sys.executable, "-m", *words],
            env=environment(os.environ, writes=writes),
            start_new_session=True,
            preexec_fn=_prepare,
        )

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

    def stop_and_look(self) -> None:
        """The same, and return when they have ended; for a handler that interrupts `wait`, which is still to be told."""
        self.stop()
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)


def environment(given: Mapping[str, str], *, writes: bool) -> dict[str, str]:
    """What torchrun and its processes find in theirs. writes: whether this node is the one that DVC runs on."""
    return {
        # Otherwise torchrun sets one thread and says so; each process sets what the parameters name.
        "OMP_NUM_THREADS": "1",
        **given,
        WRITER: str(int(writes)),
        # The store that the processes share is otherwise the one of the first start, also when its node has been lost.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


def _prepare() -> None:
    die_with_parent()
    # SLURM warns every process of a job before it ends it; the one that answers is this process's parent.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
