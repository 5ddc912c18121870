"""The servers of the web pages: Prefect with a worker, and MLflow, on loopback by default, started and ended together."""

import contextlib
import io
import ipaddress
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from config.names import shown
from config.redaction import redacted, without_user
from jobs.notes import read_note, write_note
from jobs.state import main_worktree, state_folder
from jobs.supervision import end_tree, identity, is_alive
from pipeline.tracking.client import client, tracking_uri

LOOPBACK, ANY = "127.0.0.1", "0.0.0.0"
POOL, DEPLOYMENT = "semmae", "pipeline"
WARNING = (
    "warning: {host}: no authentication: whoever reaches a port of these servers reads all results and can run code as you. "
    "Keep others out with a firewall; for yourself an SSH tunnel to the loopback address is enough"
)
START_SECONDS = 120
# The worker asks for new runs this often; Prefect's default is ten seconds.
POLL = {"PREFECT_WORKER_QUERY_SECONDS": "1"}
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Not used here, and it takes seven processes and 800 MB.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def state() -> dict[str, Any]:
    """The services that `semmae up` started: name -> process, address."""
    return read_note(_folder() / "services.json")


def api_url() -> str:
    """The address of Prefect's API: PREFECT_API_URL, or the server of `semmae up` while it runs; empty if there is none."""
    if os.environ.get("PREFECT_API_URL"):
        return os.environ["PREFECT_API_URL"]
    server = state().get("prefect", {})
    if not is_alive(server.get("process", "")):
        return ""
    os.environ.update(_prefect_environment(server["url"]))
    return os.environ["PREFECT_API_URL"]


def mlflow_url() -> str:
    """The address of MLflow's pages; empty if no server is known."""
    if tracking_uri().startswith("http"):
        return tracking_uri()
    server = state().get("mlflow", {})
    return server["url"] if is_alive(server.get("process", "")) else ""


def run_page(experiment: str, run: str) -> str:
    """The address of a run's page in MLflow; empty if no server is known."""
    return f"{without_user(mlflow_url())}/#/experiments/{experiment}/runs/{run}" if mlflow_url() else ""


def worker_name() -> str:
    """The name of this machine's Prefect worker."""
    return f"semmae-{socket.gethostname()}"


def up(*, prefect_port: int, mlflow_port: int, host: str = LOOPBACK) -> None:
    """Start the servers that PREFECT_API_URL and MLFLOW_TRACKING_URI do not name, register the pipeline, start a worker.

    host: the IPv4 address to listen on; prints a warning unless it is a loopback address, because the servers have no
    authentication. Raises ValueError if a service is up already, the address is not one of this machine, a port is taken, or
    a server does not start.
    """
    running = [name for name, service in state().items() if is_alive(service["process"])]
    if running:
        raise ValueError(f"{', '.join(running)}: up already; `semmae down` ends them")
    names = names_of(host)
    own_prefect, own_mlflow = "PREFECT_API_URL" not in os.environ, not tracking_uri().startswith("http")
    for port, option in ((prefect_port, "--prefect-port"), (mlflow_port, "--mlflow-port")):
        if (own_prefect if option == "--prefect-port" else own_mlflow) and _is_taken(host, port):
            raise ValueError(f"port {port}: taken by another program; choose another with {option}")
    try:
        if own_prefect:
            url = f"http://{_own_address(host)}:{prefect_port}"
            os.environ.update(_prefect_environment(url))
            words = ["prefect", "server", "start", "--host", host, "--port", str(prefect_port)]
            settings = _prefect_server_settings(names, prefect_port)
            _start("prefect", words, url, health=f"{url}/api/health", settings=settings)
        if own_mlflow:
            url = f"http://{_own_address(host)}:{mlflow_port}"
            with client() as tracking:
                # Creates the database before the server's processes race for it.
                tracking.search_experiments(max_results=1)
            words = ["mlflow", "server", "--host", host, "--port", str(mlflow_port), "--workers", "1"]
            words += ["--default-artifact-root", (main_worktree() / "tracking" / "artifacts").as_uri()]
            settings = _mlflow_server_settings(names, mlflow_port)
            _start("mlflow", words, url, health=f"{url}/health", settings=settings)
        deploy()
        words = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", worker_name()]
        _start("worker", words, "", health="")
    except BaseException:
        down(quiet=True)
        raise
    address = redacted(os.environ["PREFECT_API_URL"]).removesuffix("/api")
    print(f"Prefect  {address}/deployments  (semmae / {DEPLOYMENT}: Run, Custom run)")
    print(f"MLflow   {redacted(mlflow_url())}/#/experiments")
    print(f"logs     {_folder()}; `semmae down` ends them")
    if (own_prefect or own_mlflow) and not ipaddress.IPv4Address(host).is_loopback:
        print(WARNING.format(host=host), file=sys.stderr)


def names_of(host: str) -> list[str]:
    """The names and addresses under which servers that listen on `host` answer a browser; pages of other sites are refused.

    Raises ValueError if `host` is no IPv4 address of this machine.
    """
    try:
        address = ipaddress.IPv4Address(host)
        with socket.socket() as probe:
            probe.bind((host, 0))
    except (ValueError, OSError):
        raise ValueError(f"--host {shown(host)}: expected an IPv4 address of this machine, or {ANY} for all") from None
    every = [one.address for card in psutil.net_if_addrs().values() for one in card if one.family == socket.AF_INET]
    own = [LOOPBACK, "localhost"] if address.is_loopback else [socket.gethostname()]
    others = [LOOPBACK, "localhost", *every] if host == ANY else [host]
    return list(dict.fromkeys((*own, *others)))


def down(*, quiet: bool = False) -> None:
    """End the processes that `up` started, the worker first: its runs are cancelled in order."""
    services = state()
    for name in ("worker", "mlflow", "prefect"):
        process = services.get(name, {}).get("process", "")
        if is_alive(process):
            end_tree(int(process.partition(":")[0]))
            if not quiet:
                print(f"{name}: ended")
    (_folder() / "services.json").unlink(missing_ok=True)
    if not services and not quiet:
        print("nothing is up")


def deploy() -> None:
    """Register work pool and deployment, with its form, on the server of PREFECT_API_URL; replaces an earlier deployment."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as prefect, contextlib.suppress(ObjectAlreadyExists):
        prefect.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    source: Any = flow.from_source(source=str(main_worktree()), entrypoint="pipeline/scheduling/flow.py:semmae")
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


def _start(name: str, words: list[str], url: str, *, health: str, settings: Mapping[str, str] | None = None) -> None:
    """Start a service that outlives this command, and wait until its `health` address answers."""
    _folder().mkdir(parents=True, exist_ok=True)
    path = _folder() / f"{name}.log"
    environment = {**QUIET, **POLL, **os.environ, **(settings or {}), "PYTHONUNBUFFERED": "1"}
    with open(path, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=main_worktree(), env=environment, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    write_note(_folder() / "services.json", {**state(), name: {"process": identity(process.pid), "url": url}})
    deadline = time.monotonic() + START_SECONDS
    while health and not _answers(health):
        if process.poll() is not None or time.monotonic() > deadline:
            last = path.read_text(errors="replace").strip().splitlines()[-1:] or ["(it is empty)"]
            raise ValueError(f"{name}: did not start; {path} ends with: {redacted(last[0])}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def _is_taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _own_address(host: str) -> str:
    """The address under which this machine reaches a server that listens on `host`."""
    return LOOPBACK if host == ANY else host


def _prefect_server_settings(names: Sequence[str], port: int) -> Mapping[str, str]:
    """By default pages of any origin may call Prefect's API: any site open in a browser could start runs."""
    settings = {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{port}" for name in names),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        # Relative: the page asks the server that it came from, under whatever name.
        "PREFECT_UI_API_URL": "/api",
    }
    return {name: value for name, value in settings.items() if name not in os.environ}


def _mlflow_server_settings(names: Sequence[str], port: int) -> Mapping[str, str]:
    """As environment variables: every user of the machine can read a command line, and a database may have a password."""
    allowed = {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(f"{name}:{port}" for name in names),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{port}" for name in names),
    }
    given = {name: value for name, value in allowed.items() if name not in os.environ}
    return {**given, "MLFLOW_BACKEND_STORE_URI": tracking_uri()}


def _prefect_environment(url: str) -> Mapping[str, str]:
    """The environment of every process that talks to our own server: its address, and a home of its own."""
    return {"PREFECT_API_URL": f"{url}/api", "PREFECT_HOME": str(_folder() / "prefect"), **QUIET}


def _folder() -> Path:
    return state_folder() / "services"
