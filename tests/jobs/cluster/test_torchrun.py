"""Processes that train together: how they are started, what each way to end means, and what a loss costs."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from config.params import Runtime, load_runtime
from jobs.cluster import torchrun
from jobs.cluster.launching import launched
from jobs.stage import Terminated
from tests.conftest import ROOT, wait_until
from tests.jobs.cluster.conftest import (
    JOB,
    assert_same_bits,
    checkpoint,
    children,
    finish,
    free_port,
    outcome,
    record,
    start,
    step_of,
    wait_for_checkpoint,
    write,
    write_runtime,
)

ONE_NODE = ["--nnodes=1", "--nproc-per-node=2", "--max-restarts=3"]
# A stage's process without torch: it leaves a mark, and ends as its argument says.
WORK = """
import os, signal, sys
from jobs.cluster.torchrun import report
with open(f"marks{sys.argv[1]}", "a") as marks:
    marks.write(".")
code = int(sys.argv[1])
if code == 65:
    report("work: mend that", is_mistake=True)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
# One process for all calls, because the import of torch takes longest.
CALLS = """
import sys
from jobs.cluster import torchrun
for code in sys.argv[1:]:
    print("code", torchrun.main(["--nproc-per-node=1", "--nnodes=1", "--max-restarts=1", "-m", "work", code]), flush=True)
"""


def runtime(**changes):
    return Runtime(**{**load_runtime(ROOT / "runtime.yaml").model_dump(), **changes})


def command(world_size, nodes, rendezvous="a:1"):
    return torchrun.command(
        "work-0", "work", ["0"], world_size=world_size, nodes=nodes, rendezvous=rendezvous, restarts=3, join_seconds=60
    )


def test_command__shares_the_processes_among_the_nodes():
    python, work = [sys.executable, "-m", "jobs.cluster.torchrun"], ["-m", "work", "0"]
    assert command(2, 1) == [*python, *ONE_NODE, *work]
    assert command(32, 4) == [
        *python,
        "--nnodes=4",
        "--nproc-per-node=8",
        "--max-restarts=3",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=a:1",
        "--rdzv-id=work-0",
        "--rdzv-conf=join_timeout=60,read_timeout=60",
        *work,
    ]
    for world_size, nodes in ((6, 4), (1, 2)):
        with pytest.raises(ValueError, match=rf"world_size: got {world_size}, expected a multiple of the {nodes}"):
            command(world_size, nodes)


def test_launched__one_process_does_its_work_itself(monkeypatch):
    assert not launched("nonesuch", [], world_size=1, runtime=runtime())
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "0")
    for given in (runtime(), runtime(nodes=2, rendezvous="a:1"), runtime(launcher="slurm")):
        assert not launched("nonesuch", [], world_size=2, runtime=given)


def test_launched__a_variable_of_torchrun_that_contradicts_runtime_yaml_is_refused(monkeypatch):
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
    ("code", "was_stopped", "error", "message"),
    [
        (65, False, SystemExit, "^1$"),
        (143, True, Terminated, "^143$"),
        (-15, True, Terminated, "^143$"),
        (143, False, ValueError, "SIGTERM ended one of the processes, and all have saved; start the job again"),
        (
            1,
            False,
            ValueError,
            "the 2 processes ended early .torchrun's exit code is 1.*resumes from the last checkpoint",
        ),
        (0, False, None, ""),
    ],
)
def test_launched__torchruns_exit_code_decides_how_the_stage_ends(monkeypatch, code, was_stopped, error, message):
    started = []

    def child(words, *, writes):
        started.append((words, writes))
        return SimpleNamespace(wait=lambda: code, was_stopped=was_stopped)

    monkeypatch.setattr(torchrun, "Child", child)
    monkeypatch.setenv("DVC_STAGE", "work@0")
    with pytest.raises(error, match=message) if error else contextlib.nullcontext():
        assert launched("work", ["0"], world_size=2, runtime=runtime())
    assert started == [(command(2, 1), True)]


def test_main__on_one_node_a_loss_is_tried_again_and_a_mistake_is_not(tmp_path):
    (tmp_path / "work.py").write_text(WORK)
    ends = {"0": (0, 1), "65": (65, 1), "143": (143, 1), "1": (1, 2), "-9": (1, 2)}
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    run = subprocess.run(
        [sys.executable, "-c", CALLS, *ends], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    codes = [int(line.split()[1]) for line in run.stdout.splitlines()]
    marks = [len((tmp_path / f"marks{end}").read_text()) for end in ends]
    assert dict(zip(ends, zip(codes, marks, strict=True), strict=True)) == ends, run.stderr
    assert "Traceback" not in run.stderr
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert errors[0] == "error: work: mend that"
    assert errors[1].endswith("ended with exit code 1") and errors[2].endswith("was ended by SIGKILL")
    assert run.stderr.count("all processes start again from the last checkpoint (0 restarts left)") == 2


def listening(process):
    """The addresses at which a process and all below it wait for others."""
    addresses = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                sockets = one.net_connections("tcp")
                addresses |= {entry.laddr.ip for entry in sockets if entry.status == psutil.CONN_LISTEN}
    return addresses


@pytest.mark.slow
def test_pretrain__resumes_by_itself_when_a_process_is_killed_and_listens_on_loopback_alone(job, two_processes):
    write(job, batch_size=7, epochs=5, world_size=2)
    process, addresses = start(job), set()
    wait_for_checkpoint(process, job)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    while process.poll() is None:
        addresses |= listening(psutil.Process(process.pid))
        time.sleep(0.02)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "was ended by SIGKILL\nall processes start again from the last checkpoint (2 restarts left)\n" in errors
    assert "resumes at step" in output and "Traceback" not in errors
    assert addresses and addresses <= {"127.0.0.1", "::1"}
    assert_same_bits(two_processes, outcome(job))
    # The record has the facts of the first process, and the cost of all.
    whole, first = record(job), record(job, "first")
    assert (whole["device"], whole["precision"], whole["status"]) == ("cpu", "fp32", "FINISHED")
    assert whole["seconds"] > first["seconds"] and whole["started"] < first["started"]
    assert whole["cpu_seconds"] > first["cpu_seconds"] and whole["peak_mib"] >= first["peak_mib"]


@pytest.mark.slow
def test_pretrain__a_mistake_is_one_line_and_not_tried_again(job):
    write(job, batch_size=7, epochs=5, world_size=2)
    shutil.rmtree(job / "arms" / "semmae")
    process = start(job)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    (error,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert error.startswith("error: pretrain") and "arms/semmae: not found; run the stage that makes it" in error
    assert "start again" not in errors and "Traceback" not in errors


def two_nodes(folder):
    """The port at which they meet."""
    port = free_port()
    write(folder, batch_size=7, epochs=5, world_size=2)
    write_runtime(folder, nodes=2, rendezvous=f"localhost:{port}")
    return port


def wait_for_port(port, process):
    """Return when the node hosts the rendezvous: so that it is this one, and its torchrun has the lower pid."""
    while True:
        assert process.poll() is None, process.communicate()[1]
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port)):
            return
        time.sleep(0.05)


@pytest.mark.slow
def test_two_nodes__without_a_common_folder_give_the_bits_of_one_where_dvc_runs(job, tmp_path, two_processes):
    (job / "history" / "pretrain" / f"{JOB}.json").unlink(missing_ok=True)
    port = two_nodes(job)
    other = Path(shutil.copytree(job, tmp_path / "other", symlinks=True))
    # RANK and WORLD_SIZE as operators of clusters set them on each machine. torchrun ranks agents of one machine by
    # pid, so that its rank 0 is not where DVC runs.
    theirs = start(other, RANK="1", WORLD_SIZE="2")
    wait_for_port(port, theirs)
    ours = start(job, RANK="0", WORLD_SIZE="2", DVC_STAGE=f"pretrain@{JOB}")
    output = finish(ours)
    finish(theirs)
    # Of the training and of the validation loss, by the first node alone.
    assert output.count("images/s") == 2 and "2 processes on 2 nodes" in output
    assert_same_bits(two_processes, outcome(job))
    assert not (other / "pretrained" / JOB).exists() and not (other / "history" / "pretrain" / f"{JOB}.json").exists()


@pytest.mark.slow
def test_two_nodes__one_that_is_killed_and_comes_back_loses_no_step_after_the_checkpoint(job, two_processes):
    port = two_nodes(job)
    host = start(job)
    wait_for_port(port, host)
    lost = start(job)
    wait_for_checkpoint(host, job, steps=5)
    below = children(lost.pid)
    lost.kill()
    lost.wait(timeout=60)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))
    step = step_of(checkpoint(job))
    back = start(job)
    output = finish(host)
    assert f"resumes at step {step} of" in output + finish(back)
    assert_same_bits(two_processes, outcome(job))
