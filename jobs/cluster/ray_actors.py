"""Make shards in the actors of a Ray cluster. Needs the extra `ray`.

A cluster of this machine's own listens on 127.0.0.1, wants a token of its own, keeps its files in a temporary folder, and
ends with the stage.
"""

import logging
import os
import secrets
import signal
import socket
import tempfile
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from config.names import shown
from jobs.cluster.work import TRIES, Task, Work, Worker
from jobs.progress import Meter
from jobs.record import note
from jobs.stage import Terminated
from jobs.state import state_folder
from shards.files import write_text
from shards.urls import host_and_port, is_url

# Settings of a cluster of this machine's own; Ray reads the first two when it is imported.
OWN = {
    # Despite its name: listen on 127.0.0.1 alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Other users of this machine reach its ports: they are refused without the token.
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Processes that Ray starts in advance cost time and memory, and actors get others.
    "RAY_prestart_worker_first_driver": "0",
}
# Only numbers go through the object store; this is about the least that Ray accepts.
STORE_BYTES = 2**27
# Workers import the code of this process.
CODE = Path(__file__).resolve().parents[2]
# Ray itself tries an address for minutes.
PROBE_SECONDS = 5.0


class Actor:
    """A worker in the cluster."""

    def start(self, work: Work, folder: str, marker: str) -> None:
        """Prepare the worker; ValueError where this node does not see the folders of the stage."""
        if not (os.path.isdir(folder) and os.path.isfile(marker)):
            raise ValueError(
                f"Ray node {socket.gethostname()} does not see {folder} and {os.path.dirname(marker)} of the stage's machine; "
                "engine ray needs both in a folder that all nodes share"
            )
        self._worker = Worker(work, folder)

    def make(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Make a shard and return the facts for the record."""
        return self._worker.make(arguments, lambda images: None)


def make_on_ray(
    work: Work, tasks: Sequence[Task], meter: Meter, *, address: str, number: int, threads: int, device: str
) -> None:
    """Make the shards in `number` actors, with a CUDA device or `threads` cores each.

    address: host:port or `auto`, or empty for a cluster of this machine's own. Raises ValueError where Ray or the cluster is
    missing or has too little room, where a node does not see the stage's folders, and for a shard that cost `TRIES` actors.
    """
    resources = {"num_gpus": 1, "num_cpus": 0} if device == "cuda" else {"num_cpus": threads}
    with _cluster(address, resources, number) as ray, _marker() as marker:
        remote = ray.remote(**resources)(Actor)
        waiting, lost = deque(tasks), Counter[str]()
        # By its answer, an actor and the shard it makes, None while it starts.
        busy: dict[Any, tuple[Any, Task | None]] = {}

        def hire() -> None:
            actor = remote.remote()
            busy[actor.start.remote(work, os.getcwd(), marker)] = actor, None

        for _ in range(number):
            hire()
        # An actor whose start waits for room, its node being lost, holds up nothing.
        while waiting or any(task for _, task in busy.values()):
            (answer,), _ = ray.wait(list(busy), num_returns=1)
            actor, task = busy.pop(answer)
            try:
                facts = ray.get(answer)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, ValueError):
                    raise ValueError(str(error.cause)) from None
                raise
            except ray.exceptions.RayError as error:
                doing = f"at {task.name}" if task else "while it started"
                lost[doing] += 1
                if lost[doing] == TRIES:
                    raise ValueError(
                        f"a worker was lost {doing}, {TRIES} times: {_line(error)}; check the memory of its node and run "
                        "again, finished shards are kept"
                    ) from None
                print(f"{meter.label}: a worker was lost {doing}: {_line(error)}; another one tries again", flush=True)
                # It may only be out of reach, and must not write beside the one that takes its place.
                ray.kill(actor)
                waiting.extend([task] if task else [])
                hire()
                continue
            if task:
                note(**facts)
                meter.advance(task.images)
            if waiting:
                task = waiting.popleft()
                busy[actor.make.remote(task.arguments)] = actor, task


@contextmanager
def _cluster(address: str, resources: Mapping[str, int], number: int) -> Iterator[Any]:
    """The module ray, connected to a cluster with room for `number` workers; the connection ends with the block."""
    if address:
        _check_address(address)
    else:
        for name, value in {**OWN, "RAY_AUTH_TOKEN": secrets.token_hex(32)}.items():
            os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ValueError(
            "runtime.yaml: engine: got ray, which is not installed; pip install 'semmae[ray]', or use local"
        ) from None
    handler = signal.getsignal(signal.SIGTERM)
    # Ray's paths of sockets may not be long. Some of its processes end a moment after shutdown.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        options: dict[str, Any] = {"address": address} if address else {
            "address": "local",
            "num_cpus": number * max(1, resources["num_cpus"]),
            "num_gpus": None if "num_gpus" in resources else 0,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": folder,
        }  # fmt: skip
        path = os.pathsep.join([str(CODE), *filter(None, [os.environ.get("PYTHONPATH")])])
        options |= {"runtime_env": {"env_vars": {"PYTHONPATH": path}}, "logging_level": logging.WARNING}
        try:
            try:
                ray.init(**options)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                name = f"no Ray cluster at {address}" if address else "no Ray cluster could be started"
                raise ValueError(f"runtime.yaml: ray_address: {name}: {_line(error)}") from error
            # Ray has put its own handler in the place of this.
            signal.signal(signal.SIGTERM, handler)
            _check_room(ray.nodes(), resources, number)
            yield ray
        except SystemExit:
            # Of Ray's handler of SIGTERM, or what Ray makes of an exception of ours while it waits.
            raise Terminated from None
        finally:
            ray.shutdown()
            signal.signal(signal.SIGTERM, handler)


def _check_room(nodes: Sequence[Mapping[str, Any]], resources: Mapping[str, int], number: int) -> None:
    """ValueError unless the nodes together have room for `number` workers, each of them on one node."""
    kind, amount = ("GPU", 1) if "num_gpus" in resources else ("CPU", resources["num_cpus"])
    places = sum(int(node["Resources"].get(kind, 0) // amount) for node in nodes if node["Alive"])
    if places < number:
        raise ValueError(
            f"runtime.yaml: shard_workers: got {number}, but the Ray cluster has room for {places} with {amount} {kind} each; "
            "lower it, or let more nodes join"
        )


@contextmanager
def _marker() -> Iterator[str]:
    """The path of a file beside the finished shards that only nodes of the same file system see."""
    marker = state_folder().absolute() / f"shared-{uuid.uuid4().hex}"
    write_text(marker, "")
    try:
        yield str(marker)
    finally:
        marker.unlink(missing_ok=True)


def _check_address(address: str) -> None:
    """ValueError for an address that is none, or that does not answer. `auto` without RAY_ADDRESS is left to Ray."""
    name = "runtime.yaml: ray_address"
    if address == "auto":
        name, address = "RAY_ADDRESS, which ray_address: auto of runtime.yaml takes", os.environ.get("RAY_ADDRESS", "")
    if address in ("", "auto"):
        return
    if is_url(address) or (endpoint := host_and_port(address)) is None:
        raise ValueError(
            f"{name}: got {shown(address)}, expected host:port, auto, or nothing for a cluster of this machine"
        )
    try:
        socket.create_connection(endpoint, timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"{name}: got {shown(address)}, which does not answer ({error}); start the cluster (ray start --head), or give "
            "the address of one that runs"
        ) from None


def _line(error: Exception) -> str:
    """Ray's message without the lines that name the actor, its class and the like."""
    return " ".join(" ".join(line for line in str(error).splitlines() if not line.startswith("\t")).split())[:300]
