"""Shards are the same bytes whoever makes them, and none is made twice, whatever dies on the way."""

import functools
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections import Counter

import psutil
import pytest

import jobs.cluster.spreading
import jobs.record
from config.params import load_runtime
from jobs.cluster.ray_actors import OWN
from jobs.cluster.spreading import Task, Work, make_missing
from jobs.kept_shards import KeptShards
from jobs.progress import Meter
from jobs.record import noted
from tests.conftest import ROOT, wait_until
from tests.jobs.cluster.conftest import free_port
from tests.jobs.cluster.shard_maker import make, making

HAS_RAY = importlib.util.find_spec("ray") is not None
NEEDS_RAY = pytest.mark.skipif(
    not HAS_RAY, reason="ray is not installed: what runs on it was not tested; pip install '.[ray]'"
)
RAY = pytest.param("ray", 2, marks=[NEEDS_RAY, pytest.mark.slow])
ONE, SEVERAL = pytest.param("local", 1), pytest.param("local", 2)
NAMES = [str(number) for number in range(9)]
ROWS = 6
QUIET = {"journal": os.devnull, "poison": "", "fault": "", "bug": "", "pause": 0}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files of each shard, by name, as one process makes them."""
    folder = tmp_path_factory.mktemp("expected")
    for name in NAMES:
        assert sum(make(name, ROWS, folder / name, **QUIET)) == ROWS
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of the stage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs.record, "_facts", {})
    return tmp_path


def settings(engine="local", workers=1, **changes):
    changes = {"engine": engine, "shard_workers": workers, "log_seconds": 1e-9, **changes}
    return load_runtime(ROOT / "runtime.yaml").model_copy(update=changes)


def start(runtime, *, device="cpu", **options):
    """Make what is missing; an error in it is raised."""
    work = Work(making, {"journal": "journal", **options})
    tasks = [Task(f"{name}.parquet", name, ROWS, {"name": name, "rows": ROWS}) for name in NAMES]
    with KeptShards("job", "fingerprint") as kept:
        make_missing(work, tasks, kept, runtime, threads=1, device=device)


def attempts(folder):
    """Names of the shards that were begun since the last call."""
    names = [line.split()[0] for line in (folder / "journal").read_text().splitlines()]
    (folder / "journal").unlink()
    return names


def finished(folder):
    return {path.parent.name for path in (folder / ".semmae/shards/job/fingerprint").glob("[0-9]/manifest.json")}


def assert_whole(folder, expected):
    kept = folder / ".semmae/shards/job/fingerprint"
    assert {path.relative_to(kept).as_posix(): path.read_bytes() for path in kept.rglob("*.*")} == expected
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize(("engine", "workers"), [ONE, SEVERAL, RAY])
def test_make_missing__shards_are_the_same_whoever_makes_them_and_a_restart_makes_the_rest(
    folder, expected, capfd, engine, workers
):
    runtime = settings(engine, workers)
    with pytest.raises(ValueError, match=r"^5: damaged\s+in two lines$"):
        start(runtime, fault="5")
    done = finished(folder)
    assert "5" not in done
    assert Counter(attempts(folder))["5"] == 1, "what is wrong with the data is no reason to try again"
    capfd.readouterr()
    start(runtime)
    assert sorted(attempts(folder)) == sorted(set(NAMES) - done)
    assert_whole(folder, expected)
    lines = capfd.readouterr().out.splitlines()
    why = (
        "the others are new, or hold other images"
        if done
        else "no shard is kept of the same code, parameters and models"
    )
    assert f"job: {len(done)} of 9 shards are reused; {why}" in lines
    images = [int(line.split()[1].split("/")[0]) for line in lines if "images," in line and "/" in line.split()[1]]
    assert images == sorted(set(images)) and lines[-1].startswith("job: 54 images"), "each image counts once"
    assert noted()["device"] == "pretended"
    start(runtime)
    assert not (folder / "journal").exists()


def test_make_missing__a_worker_that_is_killed_is_replaced_and_its_shard_made_again(
    folder, expected, monkeypatch, capfd
):
    killed = []

    class Killing(Meter):
        """Kills the worker that made the first shard, when that is finished and others wait."""

        def advance(self, images, note=""):
            super().advance(images, note)
            if not killed and finished(folder):
                lines = [line.split() for line in (folder / "journal").read_text().splitlines()]
                killed.append(next(int(pid) for name, pid, *_ in lines if name in finished(folder)))
                assert killed != [os.getpid()]
                os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(jobs.cluster.spreading, "Meter", Killing)
    start(settings(workers=2))
    lines = capfd.readouterr().out.splitlines()
    assert sum(line.startswith("job: a worker was lost") for line in lines) == 1
    assert lines[-1].startswith("job: 54 images"), "none is counted twice"
    made = Counter(attempts(folder))
    assert set(made) == set(NAMES) and made.total() <= len(NAMES) + 2
    assert_whole(folder, expected)


def test_make_missing__a_shard_that_kills_its_workers_is_one_line_and_the_finished_are_kept(folder, expected):
    with pytest.raises(
        ValueError, match=r"^a worker was lost, 3 times: its process was killed; \d shards are missing \(.*8\.parquet\)"
    ) as error:
        start(settings(workers=2), poison="8")
    assert "\n" not in str(error.value)
    assert Counter(attempts(folder))["8"] == 3
    # With it ends what the other process makes at the time.
    assert len(set(NAMES) - finished(folder)) <= 2 and "8" not in finished(folder)
    start(settings())
    assert_whole(folder, expected)


def test_make_missing__a_bug_keeps_its_traceback():
    with pytest.raises(AssertionError, match="a bug") as bug:
        start(settings(workers=2), bug="3")
    assert "shard_maker.py" in str(bug.value.__cause__)


def test_make_missing__workers_that_die_while_they_load_end_the_run(folder):
    with pytest.raises(ValueError, match="a worker was lost, 3 times: its process was killed; 9 shards are missing"):
        start(settings(workers=2), dies_loading=True)
    assert not (folder / "journal").exists()


def test_make_missing__each_process_has_a_cuda_device_of_its_own(folder, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-b1,5")
    with pytest.raises(ValueError, match="shard_workers: got 4, more than one for each of the 3 CUDA devices"):
        start(settings(workers=4), device="cuda")
    start(settings(workers=3), device="cuda")
    seen = {tuple(line.split()[1:]) for line in (folder / "journal").read_text().splitlines()}
    assert len({pid for pid, _ in seen}) == len({device for _, device in seen}) == len(seen)
    assert {device for _, device in seen} <= {"3", "GPU-b1", "5"}


def test_ray__where_it_is_not_installed_one_line_says_how_to(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"engine: got ray, which is not installed; pip install 'semmae\[ray\]'"):
        start(settings("ray"))


@pytest.mark.parametrize("address", ["head", ":6379", "head:65536", "local", "ray://10.0.0.1:10001"])
def test_ray__an_address_without_host_or_port_is_named(address):
    with pytest.raises(
        ValueError, match=rf"^runtime\.yaml: ray_address: got '{address}', expected host:port, auto, or"
    ):
        start(settings("ray", ray_address=address))


def test_ray__an_address_that_does_not_answer_is_one_line_before_ray_tries_it(monkeypatch):
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setitem(sys.modules, "ray", None)
    line = rf"got '{address}', which does not answer \(.*refused\); start the cluster .* one that runs$"
    with pytest.raises(ValueError, match=rf"^runtime\.yaml: ray_address: {line}"):
        start(settings("ray", ray_address=address))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=rf"^RAY_ADDRESS, which ray_address: auto of runtime\.yaml takes: {line}"):
        start(settings("ray", ray_address="auto"))


@NEEDS_RAY
def test_ray__auto_without_a_cluster_is_one_line(monkeypatch, tmp_path):
    """Others may run one on this machine, which Ray would find among the processes."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", functools.cache(list))
    with pytest.raises(
        ValueError, match=r"ray_address: no Ray cluster at auto: Could not find any running Ray"
    ) as error:
        start(settings("ray", ray_address="auto"))
    assert "\n" not in str(error.value)


STAGE = """
import sys
from jobs.stage import run
from tests.jobs.cluster.test_spreading import settings, start
run(lambda: start(settings(sys.argv[1], 2), pause=0.2))
"""


@pytest.fixture
def stage(folder):
    """Starts a stage with two workers; gives its process when a shard is finished and others wait, and all those below it."""
    started = []

    def begin(engine):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(
            [sys.executable, "-c", STAGE, engine], cwd=folder, env=environment, process_group=0, **pipes
        )
        started.append(process)
        wait_until(lambda: finished(folder) or process.poll() is not None, 60)
        assert process.poll() is None, process.communicate()
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) >= 2
        return process, below

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def is_over(process):
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


ENGINES = ["local", pytest.param("ray", marks=NEEDS_RAY)]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_sigkill__of_the_stage_leaves_no_process_and_a_restart_goes_on(folder, expected, stage, engine):
    process, below = stage(engine)
    # Ray's two agents notice within about a minute.
    below = [one for one in below if "Agent" not in " ".join(one.cmdline())]
    process.kill()
    wait_until(lambda: all(map(is_over, below)))
    done = finished(folder)
    attempts(folder)
    start(settings())
    assert sorted(attempts(folder)) == sorted(set(NAMES) - done)
    assert_whole(folder, expected)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("engine", ENGINES)
def test_signal__ends_the_stage_and_all_its_processes(folder, stage, engine, number):
    """SIGINT to the group, as a terminal sends it."""
    process, below = stage(engine)
    listening = [one.laddr.ip for other in below for one in other.net_connections() if one.status == psutil.CONN_LISTEN]
    assert set(listening) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, "nothing is reached from other machines"
    process.send_signal(number) if number == signal.SIGTERM else os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    wait_until(lambda: all(map(is_over, below)), 5)
    assert len(finished(folder)) < len(NAMES)


NODES = """
import os
from pathlib import Path
from ray.cluster_utils import Cluster
import jobs.cluster.ray_actors
import jobs.cluster.spreading
from jobs.progress import Meter
from tests.jobs.cluster.test_spreading import finished, settings, start

small = {"object_store_memory": 2**27}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
lost, _ = cluster.add_node(num_cpus=1, **small), cluster.add_node(num_cpus=1, **small)

def refused(workers):
    try:
        start(settings("ray", workers, ray_address=cluster.address))
    except ValueError as error:
        print("refused:", error)

class Killing(Meter):
    def advance(self, images, note=""):
        super().advance(images, note)
        if lost in cluster.worker_nodes and len(finished(Path.cwd())) >= 2:
            cluster.remove_node(lost, allow_graceful=False)

refused(3)
write = jobs.cluster.ray_actors.write_text
jobs.cluster.ray_actors.write_text = lambda path, text: None
refused(2)
jobs.cluster.ray_actors.write_text = write
jobs.cluster.spreading.Meter = Killing
start(settings("ray", 2, ray_address=cluster.address), pause=0.1)
cluster.shutdown()
"""


@NEEDS_RAY
@pytest.mark.slow
def test_ray__a_cluster_that_loses_a_node_goes_on_with_the_other(folder, expected):
    """Two nodes on this machine, with room for a worker each: when one is killed, there is place for one worker only."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **OWN, "RAY_AUTH_TOKEN": "0" * 64}
    command = [sys.executable, "-c", NODES]
    ended = subprocess.run(
        command, cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert "shard_workers: got 3, but the Ray cluster has room for 2 with 1 CPU each" in ended.stdout
    assert re.search(r"refused: Ray node \S+ does not see \S+ and \S+/\.semmae of the stage's machine", ended.stdout)
    lines = re.sub(r".* images, .*\n", "", ended.stdout)
    assert re.search(r"(?m)^job: a worker was lost (at \d\.parquet|while it started): ", lines), lines
    assert_whole(folder, expected)
    assert not list((folder / ".semmae").glob("shared-*"))
