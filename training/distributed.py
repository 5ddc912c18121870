"""Several processes that train one model: torchrun starts them, each takes its part of every batch, sums make them one.

Gradients are summed by one all-reduce after the last backward pass, not by DistributedDataParallel: that divides by the
number of processes, which is exact for equal parts alone, and renames the weights. Its overlap with the backward pass is
what this forgoes.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from pipeline.stage import Terminated, torchrun_rank

# Opened here, because nothing may be opened between fork and exec.
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Processes:
    """This process among the `world_size` that train together; every method must be called by all of them."""

    rank: int
    world_size: int
    device: torch.device

    def part(self, count: int) -> slice:
        """This process's share of `count` things: contiguous, in the order of ranks, sizes differ by one at most."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum over the processes, of the same bits in each."""
        if self.world_size > 1:
            value = value.clone()
            with _lost_is_an_error():
                torch.distributed.all_reduce(value)
        return value

    def sum_gradients(self, weights: Iterable[torch.Tensor]) -> None:
        """Replace each gradient by its sum over the processes; all of them have a gradient for the same weights."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if self.world_size > 1:
            flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
            parts = flat.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Whether any process raises the flag: a signal arrives at different steps, and who stops alone blocks the rest."""
        return flag if self.world_size == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def from_first(self, content: bytes | None) -> bytes | None:
        """What the process of rank 0 gives; what the others give is ignored."""
        if self.world_size == 1:
            return content
        size = torch.tensor(-1 if content is None else len(content), device=self.device)
        with _lost_is_an_error():
            torch.distributed.broadcast(size, 0)
            if size < 0:
                return None
            if self.rank:
                content = bytes(int(size))
            sent = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self.device)
            torch.distributed.broadcast(sent, 0)
        return sent.cpu().numpy().tobytes()

    def agree(self, content: bytes) -> bool:
        """Whether all processes give the same; the answer is the same in all of them."""
        return not self.any(self.from_first(content) != content)


ALONE = Processes(0, 1, torch.device("cpu"))


@contextlib.contextmanager
def join(world_size: int, device: torch.device) -> Iterator[Processes]:
    """The group of the processes that torchrun started, or this one alone; only the process of rank 0 prints.

    Raises ValueError when torchrun started another number than `world_size`, which the parameters name, and when this
    machine has fewer CUDA devices than processes.
    """
    started = 1 if torchrun_rank() is None else int(os.environ["WORLD_SIZE"])
    if started != world_size:
        raise ValueError(f"compute.world_size: got {world_size}, but torchrun started {started}; let them agree")
    if world_size == 1:
        yield ALONE
        return
    _die_with_parent()
    if device.type == "cuda":
        local, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= devices:
            raise ValueError(
                f"compute.world_size: got {world_size}, more than a process for each of the {devices} CUDA devices of "
                "this machine; lower it, or use compute.device cpu"
            )
        torch.cuda.set_device(local)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        rank = torch.distributed.get_rank()
        with contextlib.ExitStack() as silence:
            if rank:
                silence.enter_context(contextlib.redirect_stdout(silence.enter_context(open(os.devnull, "w"))))
            yield Processes(rank, world_size, device)
    finally:
        torch.distributed.destroy_process_group()


def launched(module: str, arguments: list[str], *, world_size: int) -> bool:
    """Run the stage `module` in `world_size` processes and say so; False where this process is to do the work itself.

    A single process does, and so does one that torchrun has started. SIGTERM goes on to the processes, which save what
    they have; they do not outlive this one. Raises `Terminated` after SIGTERM, and ValueError when one of them failed.
    """
    if world_size == 1 or torchrun_rank() is not None:
        return False
    command = [sys.executable, "-m", *torchrun(os.environ, world_size=world_size), "-m", module, *arguments]
    # Otherwise torchrun sets one thread and says so; each process sets what the parameters name.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    # A session of its own: a signal to this process's group must not reach torchrun twice, it gives up at the second.
    child = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=_die_with_parent)
    asked: list[int] = []

    def forward(number: int, _: object) -> None:
        if not asked:
            child.terminate()
        asked.append(number)

    previous = signal.signal(signal.SIGTERM, forward)
    try:
        child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    if child.returncode and asked:
        raise Terminated
    if child.returncode:
        raise ValueError(
            f"one of the {world_size} processes ended early, and so did the others (torchrun's exit code is "
            f"{child.returncode}, its lines stand above); mend that and run again, it goes on from the last checkpoint"
        )
    return True


def torchrun(environment: Mapping[str, str], *, world_size: int) -> list[str]:
    """Module and options that start this node's share of the processes.

    On several nodes torchrun's own variables (PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR, ...) say where the others are.
    """
    given = environment.get("PET_NNODES", "1")
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"PET_NNODES: got {given}, expected the number of nodes; it cannot change during a run")
    nodes = int(given)
    if world_size % nodes:
        raise ValueError(
            f"compute.world_size: got {world_size}, expected a multiple of the {nodes} nodes of PET_NNODES"
        )
    standalone = ["--standalone"] if nodes == 1 else []
    return ["torch.distributed.run", *standalone, f"--nproc-per-node={world_size // nodes}"]


@contextlib.contextmanager
def _lost_is_an_error() -> Iterator[None]:
    """The end of another process, which torch reports as RuntimeError, as an error of one line."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError("lost the other processes; what the first of them to end printed says why") from error


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone, however it went; Linux alone can."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
