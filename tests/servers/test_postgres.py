"""A team's servers, on PostgreSQL: of eight walks at once, each in a clone of its own, none is refused and none lost."""

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from jobs.code import ROOMS
from tests.conftest import ROOT, wait_until
from tests.pipeline.conftest import IDENTITY, make_small
from tests.servers.conftest import ask, free_port, mlflow_runs, semmae

pytestmark = pytest.mark.slow
WALKS = 8
# Prefect's server gets every line.
STAGES = """
stages:
  count:
    cmd: exec sh -c 'seq 300; cp number out'
    deps: [number]
    outs: [out]
"""


# `semmae run` in each of these folders at once: processes that start with everything imported, so that they meet at the servers.
WALK = """
import os, sys
import mlflow, pandas
from pipeline import cli, running
from pipeline.scheduling import launch
from pipeline.tracking import headline

folders, sys.argv = sys.argv[1:], ["semmae", "run"]
walks = []
for folder in folders:
    walks.append(os.fork())
    if walks[-1] == 0:
        os.chdir(folder)
        with open(f"{folder}.log", "wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        cli.main()
sys.exit(sum(os.waitpid(walk, 0)[1] != 0 for walk in walks))
"""


@pytest.fixture(scope="module")
def databases():
    """Addresses of the databases prefect and mlflow in a PostgreSQL of our own, which has a socket and no port."""
    found = [*filter(None, [shutil.which("postgres")]), *map(str, Path("/usr/lib/postgresql").glob("*/bin/postgres"))]
    if not found:
        pytest.skip("no PostgreSQL on this machine: the servers were not tested on it; install the package postgresql")
    import psycopg

    programs = Path(found[0]).resolve().parent
    # A socket's path has 107 characters at most, which a test's own folder may exceed.
    folder, server = Path(tempfile.mkdtemp(prefix="postgres-")), None
    # Its programs refuse root; Debian's package has made the user.
    user = "postgres" if os.getuid() == 0 else getpass.getuser()
    as_user = {"user": user if os.getuid() == 0 else None, "cwd": folder}

    def connect():
        with contextlib.suppress(psycopg.OperationalError):
            return psycopg.connect(host=str(folder), user="semmae", dbname="postgres", autocommit=True)

    try:
        shutil.chown(folder, user)
        words = ["--pgdata=data", "--auth=trust", "--username=semmae", "--no-sync", "--encoding=UTF8", "--no-locale"]
        made = subprocess.run([programs / "initdb", *words], **as_user, capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"PostgreSQL does not start on this machine, the servers were not tested on it: {made.stderr}")
        with open(folder / "log", "wb") as log:
            words = ["-D", "data", "-k", str(folder), "-h", "", "-F"]
            server = subprocess.Popen([programs / "postgres", *words], **as_user, stdout=log, stderr=log)
        with wait_until(connect, 60, every=0.2) as connection:
            for name in ("prefect", "mlflow"):
                connection.execute(f"CREATE DATABASE {name}")
        yield (
            f"postgresql+asyncpg://semmae@/prefect?host={folder}",
            f"postgresql+psycopg://semmae@/mlflow?host={folder}",
        )
    finally:
        if server is not None:
            # The fast way to end: connections are closed.
            server.send_signal(signal.SIGINT)
            server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def team(databases, tmp_path_factory):
    """Addresses of Prefect and MLflow, which `semmae up` started on these databases."""
    folder = make_small(tmp_path_factory.mktemp("team") / "team", STAGES, {"number": "0"})
    for room in ROOMS:
        (folder / room).symlink_to(ROOT / room)
    settings = {"PREFECT_API_DATABASE_CONNECTION_URL": databases[0], "MLFLOW_TRACKING_URI": databases[1]}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        prefect, mlflow = free_port(), free_port()
        try:
            semmae(folder, "up", "--prefect-port", prefect, "--mlflow-port", mlflow)
            yield f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}"
        finally:
            semmae(folder, "down")


def test_walks__eight_at_once_are_all_in_prefect_and_in_mlflow(team, tmp_path):
    prefect, mlflow = team
    environment = {
        **os.environ,
        **IDENTITY,
        "PREFECT_API_URL": f"{prefect}/api",
        "MLFLOW_TRACKING_URI": mlflow,
        "SEMMAE_SLOTS": "",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    clones = [make_small(tmp_path / str(number), STAGES, {"number": str(number)}) for number in range(WALKS)]
    failed = subprocess.run(
        [sys.executable, "-c", WALK, *clones], cwd=clones[0], env=environment, check=False
    ).returncode
    output = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert failed == 0, output
    for kind in ("flow_runs", "task_runs"):
        assert [run["state_type"] for run in ask(prefect, f"{kind}/filter")] == ["COMPLETED"] * WALKS
    # Of each walk a run of the pipeline, and one of its stage.
    runs = mlflow_runs(mlflow)
    assert Counter(run.data.tags.get("dvc_stage", "pipeline") for run in runs) == {"pipeline": WALKS, "count": WALKS}
    assert {run.info.status for run in runs} == {"FINISHED"}
