"""Several processes train one model: torchrun starts them, each takes its part of every batch, and gradients are summed.

One all-reduce after the last backward pass sums them, not DistributedDataParallel: that divides by the number of
processes, which is exact for equal parts alone, and renames the weights. Its overlap with the backward pass is lost.
"""

import contextlib
import os
import socket
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from jobs.cluster import torchrun


@dataclass(frozen=True)
class Processes:
    """This process among the `world_size` that train together; every method must be called by all of them."""

    rank: int
    world_size: int
    nodes: int = 1

    def part(self, count: int) -> slice:
        """This process's share of `count` things: contiguous, in the order of ranks, sizes differ by one at most."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum over the processes, with the same bits in each."""
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
        """Whether any process raises the flag: signals arrive at different steps, and one that stops alone blocks the rest."""
        return flag if self.world_size == 1 else bool(self.sum(torch.tensor(float(flag))) > 0)

    def from_first(self, content: bytes | None) -> bytes | None:
        """The content of the process of rank 0; that of the others is ignored."""
        if self.world_size == 1:
            return content
        size = torch.tensor(-1 if content is None else len(content))
        with _lost_is_an_error():
            torch.distributed.broadcast(size, 0)
            if size < 0:
                return None
            own = bytearray(int(size)) if self.rank or content is None else bytearray(content)
            torch.distributed.broadcast(torch.frombuffer(own, dtype=torch.uint8), 0)
        return bytes(own)

    def agree(self, content: bytes) -> bool:
        """Whether all processes have the same content; all get the same answer."""
        return not self.any(self.from_first(content) != content)


ALONE = Processes(0, 1)


@contextlib.contextmanager
def join(world_size: int, device: torch.device) -> Iterator[Processes]:
    """The group of the processes that torchrun started, or this one alone; only the process of rank 0 prints.

    Raises ValueError when torchrun started another number than `world_size` of the parameters, when this machine has fewer
    CUDA devices than processes, and when DVC runs this on several nodes; ConnectionError when another process is lost.
    """
    rank = torchrun.rank()
    started = 1 if rank is None else int(os.environ["WORLD_SIZE"])
    if started != world_size:
        raise ValueError(f"compute.world_size: got {world_size}, but torchrun started {started}; let them agree")
    if rank is not None:
        torchrun.die_with_parent()
    if world_size == 1 or rank is None:
        yield ALONE
        return
    if device.type == "cuda":
        local, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= devices:
            raise ValueError(
                f"compute.world_size: got {world_size}, more than a process for each of the {devices} CUDA devices of "
                "this machine; lower it, or use compute.device cpu"
            )
        torch.cuda.set_device(local)
    nodes = int(os.environ["GROUP_WORLD_SIZE"])
    with _lost_is_an_error():
        store = _store(world_size)
        rank = settled_rank(store, rank, world_size)
        # What the host alone has to know goes from host to host, and waits for no device.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    # Error lines and the record name it.
    os.environ["RANK"] = str(rank)
    try:
        with contextlib.ExitStack() as silence:
            if rank:
                silence.enter_context(contextlib.redirect_stdout(silence.enter_context(open(os.devnull, "w"))))
            if nodes > 1:
                print(f"{world_size} processes on {nodes} nodes: {socket.gethostname()} writes", flush=True)
            yield Processes(rank, world_size, nodes)
    finally:
        torch.distributed.destroy_process_group()


def _store(world_size: int) -> torch.distributed.Store:
    """The store in which the processes find each other: a file on one node, torchrun's address on several."""
    if torchrun.STORE in os.environ:
        return torch.distributed.FileStore(os.environ[torchrun.STORE], world_size)
    return next(torch.distributed.rendezvous("env://"))[0]


def settled_rank(store: torch.distributed.Store, rank: int, world_size: int) -> int:
    """New rank of the process that torchrun calls `rank`: those of the node that DVC runs on come first.

    torchrun ranks the nodes by name, anew at each start, but rank 0 writes checkpoint and outs, and DVC looks for them on
    its own node, also where the nodes share no folder. Where DVC runs on none of them torchrun's ranks stay. Raises
    ValueError when it runs on several.
    """
    is_first = os.environ.get(torchrun.WRITER) == "1" and os.environ["LOCAL_RANK"] == "0"
    store.set(f"writer/{rank}", str(int(is_first)))
    first = [other for other in range(world_size) if store.get(f"writer/{other}") == b"1"]
    if len(first) > 1:
        raise ValueError(
            f"DVC runs this stage on {len(first)} nodes, each of which would write the outs; run it on one, and on the "
            "others by `python -m stages.pretrain ARM SEED`, or stages.finetune"
        )
    return (rank - first[0]) % world_size if first else rank


@contextlib.contextmanager
def _lost_is_an_error() -> Iterator[None]:
    """Turn torch's RuntimeError for the end of another process into an error of one line."""
    try:
        yield
    except RuntimeError as error:
        reason = textwrap.shorten(next(iter(str(error).splitlines()), ""), 120)
        raise ConnectionError(
            f"lost the other processes ({reason}); the output of the first that ended says why"
        ) from error
