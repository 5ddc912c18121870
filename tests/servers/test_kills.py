"""A run whose stage, DVC, flow, worker or server is killed with -9 at a random moment is mended and finished.

`pytest tests/servers/test_kills.py --walks 30` (`make chaos`) does it thirty times instead of once.
"""

import random
import shutil
import signal
import time

import psutil
import pytest

from jobs.dvc_lock import stage_entries
from jobs.supervision import is_alive
from tests.conftest import wait_until
from tests.servers.conftest import (
    FLOW,
    STAGE,
    ask,
    end_of,
    has_ended,
    mlflow_runs,
    processes,
    semmae,
    service,
    state_of,
    submit_by_api,
)

pytestmark = pytest.mark.slow
VICTIMS = {"stage": r"-m stages\.", "DVC": r"/reproducing\.py ", "flow": FLOW, "worker": "worker", "server": "prefect"}
# Long enough for a kill in the middle of a training.
FORM = {"epochs": 100, "targets": ["finetune@class-semmae-0", "finetune@class-mae-0"]}
LATEST = 25.0
STUCK = ("RUNNING", "PENDING", "CANCELLING")


def pytest_generate_tests(metafunc):
    if "walk" in metafunc.fixturenames:
        metafunc.parametrize("walk", range(metafunc.config.getoption("--walks")))


def forget_runs(folder):
    """Without its run cache DVC computes again what another experiment of the same parameters computed."""
    shutil.rmtree(folder / ".dvc" / "cache" / "runs", ignore_errors=True)


def digests(folder, name):
    entries = stage_entries(folder / ".semmae" / "worktrees" / name / "dvc.lock")
    found = {
        stage: sorted((out["path"], out["md5"]) for out in entry.get("outs", ())) for stage, entry in entries.items()
    }
    return {stage: outs for stage, outs in found.items() if stage.startswith(("pretrain", "finetune"))}


@pytest.fixture(scope="module")
def unbroken(served):
    """Digests of a run that nobody kills."""
    folder, prefect, _ = served
    forget_runs(folder)
    assert end_of(prefect, submit_by_api(prefect, {**FORM, "name": "unbroken"})) == "COMPLETED"
    return digests(folder, "unbroken")


def find(folder, victim):
    if victim in ("worker", "server"):
        return [psutil.Process(int(service(folder, VICTIMS[victim]).partition(":")[0]))]
    return processes(folder, VICTIMS[victim])


def test_kill__what_is_left_is_mended_and_the_run_ends_as_if_nothing_had_happened(served, unbroken, walk):
    folder, prefect, mlflow = served
    draw = random.Random(f"walk {walk}")
    order = list(VICTIMS)
    victim, delay, name = order[(walk + 3) % len(order)], draw.uniform(0.0, LATEST), f"killed-{walk}"
    forget_runs(folder)
    run = submit_by_api(prefect, {**FORM, "name": name})
    time.sleep(delay)
    found = wait_until(lambda: find(folder, victim) or has_ended(prefect, run), 60)
    if found is not True:
        draw.choice(found).send_signal(signal.SIGKILL)
    killed = time.monotonic()
    # Without worker or server it goes on to its end; what depends on another killed process ends by itself.
    wait_until(lambda: has_ended(prefect, run) or not processes(folder, f"{FLOW}|{STAGE}"), 300)
    wait_until(lambda: not processes(folder, f"{FLOW}|{STAGE}"), 90)
    if not all(is_alive(service(folder, one)) for one in ("worker", "prefect")):
        semmae(folder, "up", "--prefect-port", prefect.rpartition(":")[2], "--mlflow-port", mlflow.rpartition(":")[2])
    mended = [semmae(folder, "doctor", "--repair").strip()]
    # What had not begun is begun by the new worker; what the doctor takes for too young to be dead, it takes later.
    wait_until(lambda: has_ended(prefect, run) or mended.append(semmae(folder, "doctor", "--repair").strip()), 300)
    print(f"{name}: {victim} after {delay:.1f} s; {time.monotonic() - killed:.0f} s later: {mended}")

    ended = end_of(prefect, submit_by_api(prefect, {**FORM, "name": name}))
    assert ended == "COMPLETED" or state_of(prefect, run) == "COMPLETED"
    assert digests(folder, name) == unbroken
    wait_until(lambda: not processes(folder, f"{FLOW}|{STAGE}"), 60)
    assert {one.info.status for one in mlflow_runs(mlflow)} <= {"FINISHED", "KILLED", "FAILED"}
    semmae(folder, "doctor", "--repair")
    assert not [one["name"] for one in ask(prefect, "flow_runs/filter") if one["state_type"] in STUCK]
    assert semmae(folder, "doctor").splitlines()[-1] == "all is well"
