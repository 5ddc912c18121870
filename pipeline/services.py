"""The servers behind the web pages: Prefect with a worker, and MLflow, on loopback, started and ended as one."""

import asyncio
import contextlib
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files import main_worktree, read_json, state_folder, write_json
from pipeline.slots import CPU, GPU, available
from pipeline.supervision import end_tree, identity, is_alive
from pipeline.tracking import client, tracking_uri

HOST = "127.0.0.1"
POOL, DEPLOYMENT = "semmae", "pipeline"
START_SECONDS = 120
# Prefect keeps them in the server's memory by default: the slots of a server that died would stay taken for ever.
LEASES, LEASES_ON_DISK = (
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",
    "prefect.server.concurrency.lease_storage.filesystem",
)
# A run from the form begins when the worker asks for it, by default every ten seconds.
POLL = {"PREFECT_WORKER_QUERY_SECONDS": "1"}
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Runs nothing of ours, and takes seven processes and 800 MB.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def state() -> dict[str, Any]:
    """What `semmae up` started: name -> process, address. Empty where nothing was."""
    path = _folder() / "services.json"
    return read_json(path) if path.is_file() else {}


def api_url() -> str:
    """The Prefect API to talk to: PREFECT_API_URL, or the server of `semmae up` while it lives; empty without any."""
    if os.environ.get("PREFECT_API_URL"):
        return os.environ["PREFECT_API_URL"]
    found = state().get("prefect", {})
    if not is_alive(found.get("process", "")):
        return ""
    os.environ.update(_prefect_environment(found["url"]))
    return os.environ["PREFECT_API_URL"]


def mlflow_url() -> str:
    """The address of MLflow's pages; empty where none is known to be served."""
    if tracking_uri().startswith("http"):
        return tracking_uri()
    found = state().get("mlflow", {})
    return found["url"] if is_alive(found.get("process", "")) else ""


def run_page(experiment: str, run: str) -> str:
    """Where MLflow shows a run; empty where no server is known."""
    return f"{mlflow_url()}/#/experiments/{experiment}/runs/{run}" if mlflow_url() else ""


def limit_name(kind: str) -> str:
    """Of the Prefect limit that admits stages on this machine."""
    return f"semmae-{kind}-{socket.gethostname()}"


def worker_name() -> str:
    """Of the Prefect worker of this machine."""
    return f"semmae-{socket.gethostname()}"


def up(*, prefect_port: int, mlflow_port: int) -> None:
    """Start what PREFECT_API_URL and MLFLOW_TRACKING_URI do not name already, register the pipeline, start a worker.

    Raises ValueError where something is up already, a port is taken, or a server does not start.
    """
    running = [name for name, found in state().items() if is_alive(found["process"])]
    if running:
        raise ValueError(f"{', '.join(running)}: up already; `semmae down` ends them")
    own_prefect, own_mlflow = "PREFECT_API_URL" not in os.environ, not tracking_uri().startswith("http")
    for port, option in ((prefect_port, "--prefect-port"), (mlflow_port, "--mlflow-port")):
        if (own_prefect if option == "--prefect-port" else own_mlflow) and _is_taken(port):
            raise ValueError(f"port {port}: taken by another program; choose another with {option}")
    try:
        if own_prefect:
            url = f"http://{HOST}:{prefect_port}"
            os.environ.update(_prefect_environment(url))
            words = ["prefect", "server", "start", "--host", HOST, "--port", str(prefect_port)]
            _start("prefect", words, url, health=f"{url}/api/health")
        if own_mlflow:
            url = f"http://{HOST}:{mlflow_port}"
            with client() as found:
                found.search_experiments(max_results=1)  # creates the database before the server's processes meet at it
            words = ["mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
            words += ["--backend-store-uri", tracking_uri(), "--default-artifact-root"]
            words += [(main_worktree() / "tracking" / "artifacts").as_uri()]
            _start("mlflow", words, url, health=f"{url}/health")
        deploy()
        words = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", worker_name()]
        _start("worker", words, "", health="")
    except BaseException:
        down(quiet=True)
        raise
    address = os.environ["PREFECT_API_URL"].removesuffix("/api")
    print(f"Prefect  {address}/deployments  (semmae / {DEPLOYMENT}: Run, Custom run)")
    print(f"MLflow   {mlflow_url()}/#/experiments")
    print(f"logs     {_folder()}; `semmae down` ends them")


def down(*, quiet: bool = False) -> None:
    """End the processes that `up` started, the worker first so that what it runs is cancelled in order."""
    found = state()
    for name in ("worker", "mlflow", "prefect"):
        process = found.get(name, {}).get("process", "")
        if is_alive(process):
            end_tree(int(process.partition(":")[0]))
            if not quiet:
                print(f"{name}: ended")
    (_folder() / "services.json").unlink(missing_ok=True)
    if not found and not quiet:
        print("nothing is up")


def deploy() -> None:
    """Register pool, limits and deployment on the server of PREFECT_API_URL; again changes what is there."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    asyncio.run(_register_limits())
    from prefect import flow

    source = flow.from_source(source=str(main_worktree()), entrypoint="pipeline/flow.py:semmae")
    with contextlib.redirect_stdout(io.StringIO()):
        source.deploy(
            DEPLOYMENT,
            work_pool_name=POOL,
            build=False,
            push=False,
            parameters={"form": {}},
            description="SemMAE against MAE on your images. Other parameters than those of params.yaml make a DVC experiment.",
            print_next_steps=False,
            ignore_warnings=True,
        )


async def _register_limits() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    async with get_client() as found:
        with contextlib.suppress(ObjectAlreadyExists):
            await found.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        for kind in (CPU, GPU):
            await found.upsert_global_concurrency_limit_by_name(limit_name(kind), available(kind))


def _start(name: str, words: list[str], url: str, *, health: str) -> None:
    """Start a service that outlives this command; returns when it answers."""
    _folder().mkdir(parents=True, exist_ok=True)
    path = _folder() / f"{name}.log"
    environment = {**QUIET, **POLL, **os.environ, "PYTHONUNBUFFERED": "1"}
    with open(path, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=main_worktree(), env=environment, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    write_json(_folder() / "services.json", {**state(), name: {"process": identity(process.pid), "url": url}})
    deadline = time.monotonic() + START_SECONDS
    while health and not _answers(health):
        if process.poll() is not None or time.monotonic() > deadline:
            told = path.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise ValueError(f"{name}: did not start; {path} ends with: {told[0]}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _prefect_environment(url: str) -> Mapping[str, str]:
    """Of every process that talks to our own server: its address, and a home of its own."""
    return {
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_HOME": str(_folder() / "prefect"),
        LEASES: LEASES_ON_DISK,
        **QUIET,
    }


def _folder() -> Path:
    return state_folder() / "services"
