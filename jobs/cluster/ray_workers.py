"""Workers in a Ray cluster: an actor each, which loads the models once. Needs the extra `ray`.

A cluster of this machine's own listens on 127.0.0.1 alone, lets nobody in without its token, keeps its files in a temporary
folder, and ends with the stage, however that ends.
"""

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from config.names import shown
from jobs.cluster import ray_guard
from jobs.cluster.spreading import LOST, Message, Work, Worker
from jobs.stage import Terminated
from jobs.state import own_state, state_folder
from jobs.supervision import identity
from shards.files import write_text
from shards.urls import host_and_port, is_url

# What a cluster of this machine's own is told; Ray reads the first two when it is imported.
OWN = {
    # The name is that of the systems on which it is the default: listen on 127.0.0.1 alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Other users of this machine reach its ports, and whoever does not have the token is refused.
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Processes that are started in advance take memory and time, and actors get others.
    "RAY_prestart_worker_first_driver": "0",
}
# Nothing but numbers goes through the store of objects, and this is about the least that Ray takes.
STORE_BYTES = 2**27
# Where this process has the code from: workers run the same.
CODE = Path(__file__).resolve().parents[1]
# For a node to start the process that looks at the shared folder.
LOOK_SECONDS = 120.0
# For a cluster to let us in; Ray itself tries for minutes.
PROBE_SECONDS = 5.0


class RayWorkers:
    """Actors of a cluster, a CUDA device or `threads` cores each.

    address: host:port or `auto`, or empty for a cluster of this machine's own with room for `number` workers. Entering it
    raises ValueError where Ray or the cluster is not there, where the cluster has too little room, and where a node does not
    see the folders that the stage and the finished shards are in.
    """

    def __init__(self, work: Work, *, address: str, number: int, threads: int, device: str) -> None:
        self.work, self.address, self.number = work, address, number
        self.needs: dict[str, int] = {"GPU": 1} if device == "cuda" else {"CPU": threads}
        self._hired: list[_Hired] = []

    def __enter__(self) -> "RayWorkers":
        if self.address:
            _check_address(self.address)
        else:
            for name, value in {**OWN, "RAY_AUTH_TOKEN": secrets.token_hex(32)}.items():
                os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError:
            raise ValueError(
                "runtime.yaml: engine: got ray, which is not installed; pip install 'semmae[ray]', or use local"
            ) from None
        self._ray = ray
        with ExitStack() as stack:
            folder = "" if self.address else stack.enter_context(_guarded_folder())
            stack.callback(ray.shutdown)
            self._connect(folder)
            nodes = [node for node in ray.nodes() if node["Alive"]]
            places = sum(_room(node["Resources"], self.needs) for node in nodes)
            if places < self.number:
                raise ValueError(
                    f"runtime.yaml: shard_workers: got {self.number}, but the Ray cluster has room for {places} with "
                    f"{_shown(self.needs)} each; lower it, or let more nodes join"
                )
            if self.address:
                self._check_shared([node for node in nodes if _room(node["Resources"], self.needs)])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _connect(self, folder: str) -> None:
        """Connect to the cluster at the address, or start one that keeps its files in `folder`."""
        options: dict[str, Any] = {
            "address": self.address or "local",
            "runtime_env": {"env_vars": {"PYTHONPATH": _path()}},
            "logging_level": logging.WARNING,
        }
        if not self.address:
            options |= {
                "num_cpus": self.number * self.needs.get("CPU", 1),
                "num_gpus": None if "GPU" in self.needs else 0,
                "object_store_memory": STORE_BYTES,
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": folder,
            }
        handler = signal.getsignal(signal.SIGTERM)
        try:
            self._ray.init(**options)
        except SystemExit:
            # Ray's own handler of SIGTERM, which `init` puts in the place of ours.
            raise Terminated from None
        except (ConnectionError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            name = f"no Ray cluster at {self.address}" if self.address else "no Ray cluster could be started"
            raise ValueError(f"runtime.yaml: ray_address: {name}: {_line(error)}") from error
        finally:
            signal.signal(signal.SIGTERM, handler)

    def _check_shared(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Let every node with room for a worker read what is written here, beside the stage and beside the finished shards."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        def unseen(markers: dict[str, str]) -> list[str]:
            """Not at the top of this module, so that it is sent as a whole: a node without the folder cannot import it."""
            import os

            return [path for path, text in markers.items() if not os.path.isfile(path) or open(path).read() != text]

        markers = [folder.absolute() / f"shared-{uuid.uuid4().hex}" for folder in (own_state(), state_folder())]
        try:
            for marker in markers:
                write_text(marker, marker.name)
            for node in nodes:
                where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                look = self._ray.remote(num_cpus=0, scheduling_strategy=where)(unseen)
                name = f"Ray node {node['NodeManagerAddress']}"
                try:
                    found = self._ray.get(look.remote({str(path): path.name for path in markers}), timeout=LOOK_SECONDS)
                except self._ray.exceptions.RayError as error:
                    raise ValueError(f"{name}: cannot be used: {_line(error)}") from error
                if found:
                    raise ValueError(
                        f"{name} does not see the folder {Path(found[0]).parent} of this machine; engine ray needs the "
                        "repository, and the one whose worktree it is, in a folder that all nodes share"
                    )
        finally:
            for marker in markers:
                marker.unlink(missing_ok=True)

    def hire(self) -> "_Hired":
        resources = {"num_cpus": self.needs.get("CPU", 0), "num_gpus": self.needs.get("GPU", 0)}
        actor = self._ray.remote(Worker).options(**resources).remote(*self.work.described())
        hired = _Hired(actor, actor.load.remote())
        self._hired.append(hired)
        return hired

    def give(self, worker: "_Hired", arguments: Mapping[str, Any]) -> None:
        worker.stream = worker.actor.make.remote(arguments)

    def messages(self) -> Iterator[tuple["_Hired", Message]]:
        speaking = {worker.stream: worker for worker in self._hired if worker.stream is not None}
        try:
            ready, _ = self._ray.wait(list(speaking), num_returns=1)
        except SystemExit:
            # An exception that a handler of SIGTERM raises while Ray waits comes out as another one of its own.
            raise Terminated from None
        for stream in ready:
            worker = speaking[stream]
            try:
                message = self._ray.get(next(stream))
            except StopIteration:
                worker.stream = None
                continue
            except self._ray.exceptions.RayTaskError:
                raise  # a bug, in what `Worker` does not catch
            except self._ray.exceptions.RayError as error:
                self._hired.remove(worker)
                # It may only be out of reach: it must not go on with what another one does now.
                self._ray.kill(worker.actor)
                message = LOST, _line(error)
            yield worker, message


class _Hired:
    """An actor, and the stream of what it says about what it is at; None where it has said all."""

    def __init__(self, actor: Any, stream: Any) -> None:
        self.actor, self.stream = actor, stream


@contextmanager
def _guarded_folder() -> Iterator[str]:
    """A folder for logs and sockets, whose paths may be no longer than a hundred characters; a process of its own removes it,
    and ends those of the cluster, when this one is killed.
    """
    # Some processes end a moment later.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", ray_guard.__name__, identity(os.getpid()), folder]
        # A session of its own: what ends this process with its group leaves the guard.
        guard = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": _path()}, start_new_session=True)
        try:
            yield folder
        finally:
            guard.kill()
            guard.wait()


def _check_address(address: str) -> None:
    """ValueError where an address is none, or nobody answers there. What `auto` finds by itself is Ray's business."""
    name = "runtime.yaml: ray_address"
    if address == "auto":
        name, address = "RAY_ADDRESS, which ray_address: auto of runtime.yaml takes", os.environ.get("RAY_ADDRESS", "")
    if address in ("", "auto"):
        return
    if is_url(address):
        raise ValueError(
            f"{name}: got {shown(address)}, but Ray's client protocol cannot tell of images as they are done; run the stage on a "
            "machine of the cluster and give host:port or auto"
        )
    if (found := host_and_port(address)) is None:
        raise ValueError(
            f"{name}: got {shown(address)}, expected host:port, auto, or nothing for a cluster of this machine"
        )
    try:
        socket.create_connection(found, timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"{name}: got {shown(address)}, but nobody answers there ({error}); start the cluster (ray start --head), or give "
            "the address of one that runs"
        ) from None


def _path() -> str:
    return os.pathsep.join([str(CODE), *filter(None, [os.environ.get("PYTHONPATH")])])


def _room(resources: Mapping[str, float], needs: Mapping[str, int]) -> int:
    return int(min(resources.get(name, 0) // amount for name, amount in needs.items()))


def _shown(needs: Mapping[str, int]) -> str:
    return ", ".join(f"{amount} {name}" for name, amount in needs.items())


def _line(error: Exception) -> str:
    """Without the lines in which Ray names the actor, its class and the like."""
    return " ".join(" ".join(line for line in str(error).splitlines() if not line.startswith("\t")).split())[:300]
