"""The servers of the web pages: Prefect with a worker, and MLflow, on loopback by default, started and ended together."""

import contextlib
import io
import ipaddress
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from config.names import shown
from config.redaction import one_line, redacted, without_user
from jobs.loopback import reach_directly
from jobs.notes import read_note, write_note
from jobs.state import main_worktree, state_folder
from jobs.supervision import end_tree, identity, is_alive
from pipeline.doctor.processes import RUN_VARIABLE, with_variable
from pipeline.scheduling.delivery import RETRIES, USUAL_TEMPORARY, connect, warn
from pipeline.tracking import views
from pipeline.tracking.client import artifact_root, client, tracking_uri
from pipeline.tracking.replay import last_experiment

LOOPBACK, ANY = "127.0.0.1", "0.0.0.0"
POOL, DEPLOYMENT = "semmae", "pipeline"
WARNING = (
    "warning: {host}: no authentication: whoever reaches a port of these servers reads all results and can run code as you. "
    "Keep others out with a firewall; for yourself an SSH tunnel to the loopback address is enough"
)
LAUNCH = "pipeline.scheduling.launch"
# To start a service; for a run of the form to write its checkpoint and tell MLflow and Prefect.
START_SECONDS, RUN_SECONDS = 120, 60
# Services start side by side, and are noted one after the other.
_NOTE = threading.Lock()
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
    """The services that `semmae up` started: name -> process, address; not those of a repository that this is a copy of."""
    noted = read_note(_folder() / "services.json")
    return {name: service for name, service in noted.items() if not _runs_elsewhere(service["process"])}


def _runs_elsewhere(process: str) -> bool:
    """Whether a process lives in another folder than this main worktree; one that was moved is seen where it is now."""
    with contextlib.suppress(psutil.Error):
        return is_alive(process) and Path(psutil.Process(int(process.partition(":")[0])).cwd()) != main_worktree()
    return False


def api_url() -> str:
    """The address of Prefect's API: PREFECT_API_URL, or the server of `semmae up` while it runs; empty if there is none."""
    if os.environ.get("PREFECT_API_URL"):
        return os.environ["PREFECT_API_URL"]
    server = state().get("prefect", {})
    if not is_alive(server.get("process", "")):
        return ""
    reach_directly(urlsplit(server["url"]).hostname or "")
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
    return views.run_page(without_user(mlflow_url()), experiment, run) if mlflow_url() else ""


def results_page() -> str:
    """The address of the table of all results in MLflow; empty if no server is known."""
    return views.runs_page(without_user(mlflow_url()), last_experiment()) if mlflow_url() else ""


def worker_name() -> str:
    """The name of this machine's Prefect worker."""
    return f"semmae-{socket.gethostname()}"


def up(*, prefect_port: int, mlflow_port: int, host: str = LOOPBACK) -> None:
    """Start what is not up of Prefect, MLflow and a worker, side by side; register the pipeline; return when the form works.

    PREFECT_API_URL and MLFLOW_TRACKING_URI may name servers of the user's own; a Prefect that does not answer is a warning.
    host: the IPv4 address to listen on; prints a warning unless it is a loopback address, because the servers have no
    authentication. Raises ValueError if the address is not one of this machine, a port is taken, or a server does not start;
    then it ends what it started.
    """
    from httpx import HTTPError

    names = names_of(host)
    reach_directly(*names)
    running = {name: service["url"] for name, service in state().items() if is_alive(service["process"])}
    own_prefect = "prefect" in running or not os.environ.get("PREFECT_API_URL")
    own_mlflow = "mlflow" in running or not tracking_uri().startswith("http")
    prefect = running.get("prefect", f"http://{_own_address(host)}:{prefect_port}")
    for name, port, is_own in (("prefect", prefect_port, own_prefect), ("mlflow", mlflow_port, own_mlflow)):
        if name in running:
            print(f"{name}: up already, {running[name]}")
        elif is_own and _is_taken(host, port):
            raise ValueError(f"port {port}: taken by another program; choose another with --{name}-port")
    if own_prefect:
        os.environ.update(_prefect_environment(prefect))

    def start_prefect() -> bool:
        if own_prefect and "prefect" not in running:
            words = ["prefect", "server", "start", "--host", host, "--port", str(prefect_port)]
            settings = _prefect_server_settings(names, prefect_port)
            _start("prefect", words, prefect, health=f"{prefect}/api/health", settings=settings)
        try:
            deploy()
        except (HTTPError, ImportError) as error:  # the latter of httpx, for a proxy of SOCKS
            if own_prefect:
                raise ValueError(f"prefect: {one_line(error)}; see {_folder() / 'prefect.log'}") from None
            warn(f"does not answer ({one_line(error)}); `semmae run` goes on without it")
            return False
        if "worker" in running:
            print("worker: up already")
        else:
            words = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", worker_name()]
            # Its `runner_storage` in a common folder would belong to the first user of the machine.
            (own := _folder() / "temporary").mkdir(parents=True, exist_ok=True)
            usual = os.environ.get("TMPDIR", "")
            _start("worker", words, "", health="", settings={"TMPDIR": str(own), USUAL_TEMPORARY: usual})
        _wait_for_form()
        return True

    def start_mlflow() -> None:
        if not own_mlflow or "mlflow" in running:
            return
        url = f"http://{_own_address(host)}:{mlflow_port}"
        with client() as tracking:
            # Creates the database before the server's processes race for it.
            tracking.search_experiments(max_results=1)
        words = ["mlflow", "server", "--host", host, "--port", str(mlflow_port), "--workers", "1"]
        words += ["--default-artifact-root", artifact_root()]
        settings = _mlflow_server_settings(names, mlflow_port)
        _start("mlflow", words, url, health=f"{url}/health", settings=settings)

    try:
        with ThreadPoolExecutor() as pool:
            has_prefect, has_mlflow = pool.submit(start_prefect), pool.submit(start_mlflow)
            both: list[Future[Any]] = [has_prefect, has_mlflow]
            for started in as_completed(both):
                started.result()
    except BaseException:
        _end(set(state()) - running.keys())
        raise
    if has_prefect.result():
        address = redacted(os.environ["PREFECT_API_URL"]).removesuffix("/api")
        print(f"Prefect  {address}/deployments  (semmae / {DEPLOYMENT}: Run, Custom run)")
    print(f"MLflow   {results_page()}")
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


def down() -> None:
    """End the runs of the form, which first write their checkpoints, and the processes that `up` started."""
    runs = runs_of_form()
    for run in runs:
        run.terminate()
        with contextlib.suppress(psutil.TimeoutExpired):
            run.wait(RUN_SECONDS)
        end_tree(run.pid)
        print("a run of the form: cancelled")
    services = _end(("worker", "mlflow", "prefect"))
    for name in services:
        print(f"{name}: ended")
    if not (services or runs):
        print("nothing is up")


def _end(names: Collection[str]) -> list[str]:
    """End services in this order and forget them; returns those that were alive."""
    services = state()
    alive = [name for name in names if is_alive(services.get(name, {}).get("process", ""))]
    for name in alive:
        end_tree(int(services[name]["process"].partition(":")[0]))
    if left := {name: service for name, service in services.items() if name not in names}:
        write_note(_folder() / "services.json", left)
    else:
        (_folder() / "services.json").unlink(missing_ok=True)
    return alive


def runs_of_form() -> list[psutil.Process]:
    """The processes of this repository that walk for the form."""
    return [
        process
        for process, _ in with_variable(RUN_VARIABLE)
        if LAUNCH in process.cmdline() and Path(process.cwd()).is_relative_to(main_worktree())
    ]


def deploy() -> None:
    """Register work pool and deployment, with its form, on the server of PREFECT_API_URL; replaces an earlier deployment."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    from prefect import flow
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with connect(retries=RETRIES) as prefect, contextlib.suppress(ObjectAlreadyExists):
        prefect.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    source: Any = flow.from_source(source=str(main_worktree()), entrypoint="pipeline/scheduling/flow.py:semmae")
    with contextlib.redirect_stdout(io.StringIO()):
        source.deploy(
            DEPLOYMENT,
            work_pool_name=POOL,
            build=False,
            push=False,
            parameters={"form": {}},
            # Instead of Prefect's engine, which fails where it loses the server.
            job_variables={"command": shlex.join([sys.executable, "-m", LAUNCH]), "working_dir": str(main_worktree())},
            description="SemMAE against MAE on your images. Other parameters than those of params.yaml make a DVC experiment. "
            "Values in brackets: params.yaml when `semmae up` ran.",
            print_next_steps=False,
            ignore_warnings=True,
        )


def _start(name: str, words: list[str], url: str, *, health: str, settings: Mapping[str, str] | None = None) -> None:
    """Start a service that outlives this command, and wait until its `health` address answers."""
    print(f"{name}: starting", flush=True)
    started = time.monotonic()
    _folder().mkdir(parents=True, exist_ok=True)
    path = _folder() / f"{name}.log"
    environment = {**QUIET, **POLL, **os.environ, **(settings or {}), "PYTHONUNBUFFERED": "1"}
    with open(path, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=main_worktree(), env=environment, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    with _NOTE:
        write_note(_folder() / "services.json", {**state(), name: {"process": identity(process.pid), "url": url}})
    while health and not _answers(health):
        if process.poll() is not None or time.monotonic() - started > START_SECONDS:
            raise _not_started(name)
        time.sleep(0.2)
    if health:
        print(f"{name}: up after {time.monotonic() - started:.0f} s", flush=True)


def _not_started(name: str) -> ValueError:
    path = _folder() / f"{name}.log"
    last = path.read_text(errors="replace").strip().splitlines()[-1:] or ["(it is empty)"]
    return ValueError(f"{name}: did not start; {path} ends with: {redacted(last[0])}")


def _wait_for_form() -> None:
    """Wait until the server answers what the page of the form asks when it is submitted, and has heard of the worker."""
    from httpx import HTTPError

    started, reason = time.monotonic(), "no worker"
    while time.monotonic() - started < START_SECONDS:
        if not is_alive(state().get("worker", {}).get("process", "")):
            raise _not_started("worker")
        try:
            with connect() as prefect:
                deployment = prefect.read_deployment_by_name(f"semmae/{DEPLOYMENT}")
                values = {"schema": deployment.parameter_openapi_schema, "values": deployment.parameters}
                ask: Any = prefect.request
                if (
                    ask("POST", "/ui/schemas/validate", json=values).json()["valid"]
                    and prefect.read_work_pool(POOL).status == "READY"
                ):
                    print(f"worker: up, the form works after {time.monotonic() - started:.0f} s", flush=True)
                    return
        except HTTPError as error:
            reason = one_line(error)
        time.sleep(0.2)
    raise ValueError(f"the form does not work after {START_SECONDS} s: {reason}; see {_folder() / 'worker.log'}")


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
