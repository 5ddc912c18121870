import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from config.params import Runtime, load_runtime
from jobs.cluster import launching
from jobs.cluster.launching import environment, launched, torchrun
from jobs.stage import Terminated
from tests.training.conftest import (
    JOB,
    assert_same_bits,
    children,
    finish,
    outcome,
    record,
    start,
    wait_for_checkpoint,
    write,
)

ROOT = Path(__file__).parents[3]
ONE_NODE = ["--nnodes=1", "--nproc-per-node=2", "--max-restarts=3"]


def runtime(**changes):
    return Runtime(**{**load_runtime(ROOT / "runtime.yaml").model_dump(), **changes})


def options(world_size, nodes, **more):
    given = {"rendezvous": "a:1", "restarts": 3, "join_seconds": 60, **more}
    return torchrun("pretrain-semmae-0", world_size=world_size, nodes=nodes, **given)


def test_torchrun__shares_the_processes_among_the_nodes():
    assert options(2, 1) == ["jobs.cluster.agent", "--rdzv-backend=loopback", *ONE_NODE]
    assert options(32, 4, is_host=False, address="b") == [
        "jobs.cluster.agent",
        "--nnodes=4",
        "--nproc-per-node=8",
        "--max-restarts=3",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=a:1",
        "--rdzv-id=pretrain-semmae-0",
        "--rdzv-conf=join_timeout=60,is_host=0",
        "--local-addr=b",
    ]
    for world_size, nodes in ((6, 4), (1, 2)):
        with pytest.raises(
            ValueError, match=rf"compute.world_size: got {world_size}, expected a multiple of the {nodes}"
        ):
            options(world_size, nodes)


def test_environment__one_node_alone_is_the_one_that_dvc_runs_on():
    found = environment({"OMP_NUM_THREADS": "3", "A": "b"}, writes=True)
    assert (found["OMP_NUM_THREADS"], found["A"], found["SEMMAE_WRITER"]) == ("3", "b", "1")
    # Inherited, as by a job of SLURM, it would name the wrong node.
    assert environment(found, writes=False)["SEMMAE_WRITER"] == "0"


def test_launched__one_process_does_its_work_itself(monkeypatch):
    assert not launched("nonesuch", [], world_size=1, runtime=runtime())
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "0")
    for given in (runtime(), runtime(nodes=2, rendezvous="a:1"), runtime(launcher="slurm")):
        assert not launched("nonesuch", [], world_size=2, runtime=given)


def test_launched__variables_of_torchrun_that_say_otherwise_are_refused(monkeypatch):
    monkeypatch.setenv("PET_NNODES", "2")
    with pytest.raises(ValueError, match=r"PET_NNODES: got 2, but runtime.yaml has nodes: 1; set nodes and rendezvous"):
        launched("nonesuch", [], world_size=2, runtime=runtime())


def test_launched__slurm_without_submitit_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.delitem(sys.modules, "jobs.cluster.slurm", raising=False)
    monkeypatch.delattr("jobs.cluster.slurm", raising=False)
    with pytest.raises(ValueError, match=r"needs the package submitit: pip install 'semmae\[slurm\]'"):
        launched("nonesuch", [], world_size=2, runtime=runtime(launcher="slurm"))


@pytest.mark.parametrize(
    ("code", "was_stopped", "error", "told"),
    [
        (65, False, SystemExit, "^1$"),
        (143, True, Terminated, "^143$"),
        (-15, True, Terminated, "^143$"),
        (143, False, ValueError, "SIGTERM ended one of the processes, and all have saved; start the job again"),
        (
            1,
            False,
            ValueError,
            "the 2 processes ended early .torchrun's exit code is 1.*goes on from the last checkpoint",
        ),
    ],
)
def test_launched__what_torchrun_returns_decides_how_the_stage_ends(monkeypatch, code, was_stopped, error, told):
    started = []

    def child(words, *, writes):
        started.append((words, writes))
        return SimpleNamespace(wait=lambda: code, was_stopped=was_stopped)

    monkeypatch.setattr(launching, "Child", child)
    monkeypatch.setenv("DVC_STAGE", "pretrain@semmae-0")
    with pytest.raises(error, match=told):
        launched("stages.pretrain", ["semmae", "0"], world_size=2, runtime=runtime())
    code, was_stopped = 0, False
    assert launched("stages.pretrain", ["semmae", "0"], world_size=2, runtime=runtime())
    assert started[0] == started[1] == ([*options(2, 1), "-m", "stages.pretrain", "semmae", "0"], True)


@pytest.mark.slow
def test_pretrain__goes_on_by_itself_from_the_last_checkpoint_when_a_process_is_killed(job, two_processes):
    write(job, batch_size=7, epochs=5, world_size=2)
    process = start(job)
    wait_for_checkpoint(process, job)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "was ended by SIGKILL; all processes begin again from the last checkpoint (2 restarts left)" in errors
    assert "resumes at step" in output and "Traceback" not in errors
    assert_same_bits(two_processes, outcome(job))


@pytest.mark.slow
def test_pretrain__the_record_of_two_processes_has_the_facts_of_the_first_and_the_cost_of_all(job):
    write(job, batch_size=7, epochs=5, world_size=2)
    finish(start(job))
    whole, first = record(job), record(job, "first")
    assert (whole["device"], whole["precision"], whole["status"]) == ("cpu", "fp32", "FINISHED")
    assert whole["images"] == json.loads((job / "metrics" / "pretrain" / f"{JOB}.json").read_text())["images"]
    differ = {name for name in whole if whole[name] != first.get(name)}
    assert {"started", "seconds", "cpu_seconds"} <= differ <= {"started", "seconds", "cpu_seconds", "peak_mib"}
    assert whole["started"] < first["started"]
    assert whole["seconds"] > first["seconds"]
    assert whole["cpu_seconds"] > first["cpu_seconds"]
    assert whole["peak_mib"] >= first["peak_mib"]


@pytest.mark.slow
def test_pretrain__a_mistake_is_told_once_and_not_tried_again(job):
    write(job, batch_size=7, epochs=5, world_size=2)
    shutil.rmtree(job / "arms" / "semmae")
    process = start(job)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    told = [line for line in errors.splitlines() if "arms/semmae: not found; run the stage that makes it" in line]
    assert len(told) == 1 and told[0].startswith("error: pretrain")
    assert "begin again" not in errors and "Traceback" not in errors
    assert [line for line in errors.splitlines() if line.startswith("error:")] == told
