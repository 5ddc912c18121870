"""How the processes of one node meet: in the memory of torchrun and in files of this user, with sockets on loopback alone.

torchrun's own way for one node is the one for several: stores that listen on all addresses, ask nobody who they are, and
one of which holds pickles.
"""

import os
import socket
from pathlib import Path

from torch.distributed import FileStore, HashStore, Store
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

# What torchrun calls this way to meet, by --rdzv-backend; --rdzv-endpoint is then a folder of this user alone.
BACKEND = "loopback"
# Names the file in which the processes find each other, for those that torchrun starts.
STORE = "SEMMAE_STORE"
# Linux's and macOS's.
INTERFACES = ("lo", "lo0")


class OneNode(RendezvousHandler):
    """torchrun's meeting of nodes where there is one: it waits for nobody, and nobody can join."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._folder, self._run, self._starts = Path(parameters.endpoint), parameters.run_id, 0

    def next_rendezvous(self) -> RendezvousInfo:
        """The node's store, and for its processes the name of a file: a new one, for the killed may have left half a line."""
        self._starts += 1
        os.environ[STORE] = str(self._folder / f"store-{self._starts}")
        # torchrun hands an address on to the processes, which do not use it.
        return RendezvousInfo(HashStore(), 0, 1, RendezvousStoreInfo("localhost", 0))

    def get_backend(self) -> str:
        return BACKEND

    def get_run_id(self) -> str:
        return self._run

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """Nobody else looks at it."""

    def num_nodes_waiting(self) -> int:
        return 0

    def shutdown(self) -> bool:
        return True


def register() -> None:
    """Let torchrun of this process know `BACKEND`."""
    rendezvous_handler_registry.register(BACKEND, OneNode)


def store(world_size: int) -> Store | None:
    """What the processes of one node find each other by, when their sockets are told to be on loopback; None where those
    that torchrun started are to meet by the address that it names.

    An interface that the user names is kept. Raises ValueError where this machine has no loopback interface.
    """
    if STORE not in os.environ:
        return None
    name = _interface()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    # NCCL takes a name for the beginning of one, unless it is told not to.
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")
    return FileStore(os.environ[STORE], world_size)


def _interface() -> str:
    names = [name for _, name in socket.if_nameindex()]
    for name in INTERFACES:
        if name in names:
            return name
    raise ValueError(
        f"no loopback interface ({' or '.join(INTERFACES)}) among {', '.join(names)}; several processes need one"
    )
