"""torchrun's agents on loopback: what each way to end means, and whole nodes that are lost and come back."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.training.conftest import (
    JOB,
    assert_same_bits,
    checkpoint,
    children,
    finish,
    free_port,
    outcome,
    start,
    step_of,
    wait_for_checkpoint,
    write,
    write_runtime,
)

# What torchrun starts, which needs no torch: it ends as its argument says, and leaves a mark each time.
WORK = """
import json, os, signal, sys
with open(sys.argv[1], "a") as marks:
    marks.write(".")
code = int(sys.argv[2])
if code == 65:
    with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as report:
        json.dump({"message": "work: mend that", "timestamp": 0}, report)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
# One process for all, because the import of torch costs more than the rest.
CALLS = """
import json, sys
from training.agent import main
print("result", json.dumps([main(arguments) for arguments in json.loads(sys.argv[1])]))
"""


def call(folder, *calls):
    """Exit codes of `training.agent` for each list of arguments, and what they printed to stderr."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{folder}", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [sys.executable, "-c", CALLS, json.dumps(calls)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("result")[2]), done.stderr


@pytest.mark.slow
def test_main__only_what_was_lost_is_begun_again(tmp_path):
    (tmp_path / "work.py").write_text(WORK)
    ends = {0: (0, 1), 65: (65, 1), 143: (143, 1), 1: (1, 3), -9: (1, 3)}
    alone = ["--standalone", "--nproc-per-node=1", "--max-restarts=2", "-m", "work"]
    codes, errors = call(tmp_path, *([*alone, str(tmp_path / f"marks{code}"), str(code)] for code in ends))
    marks = [len((tmp_path / f"marks{code}").read_text()) for code in ends]
    assert dict(zip(ends, zip(codes, marks, strict=True), strict=True)) == ends
    assert errors.count("error: work: mend that") == errors.count("work: mend that") == 1
    assert errors.count("ended by SIGKILL; all processes begin again from the last checkpoint (1 restarts left)") == 1
    assert errors.count("ended by SIGKILL") == errors.count("ended with exit code 1") == 3
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("torchelastic*"))


@pytest.mark.slow
def test_main__nodes_that_do_not_come_are_told_in_one_line(tmp_path):
    port = free_port()
    two = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=j"]
    conf = "--rdzv-conf=join_timeout=1,read_timeout=1"
    codes, errors = call(tmp_path, [*two, f"{conf},is_host=0", "work"], [*two, f"{conf},is_host=1", "work"])
    assert codes == [1, 1]
    told = [line for line in errors.splitlines() if line.startswith("error:")]
    assert f"nobody answers at the rendezvous localhost:{port}" in told[0]
    assert f"not all 2 nodes came to localhost:{port} within 1 s" in told[1]
    assert len(told) == 2 and "Traceback" not in errors


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


def kill(process):
    """A whole node at once: the stage, its torchrun, and what that started."""
    for pid in (process.pid, *children(process.pid)):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)


class Lines:
    """What a process prints to stderr, read as it comes."""

    def __init__(self, process):
        self.found, self._heard = [], threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._thread.start()

    def _read(self, stream):
        for line in stream:
            with self._heard:
                self.found.append(line)
                self._heard.notify_all()

    def wait_for(self, words):
        with self._heard:
            assert self._heard.wait_for(lambda: any(words in line for line in self.found), timeout=60), self.found


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
    assert output.count("images/s") == 1 and "2 processes on 2 nodes" in output
    assert_same_bits(two_processes, outcome(job))
    assert not (other / "pretrained" / JOB).exists() and not (other / "history" / "pretrain" / f"{JOB}.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_two_nodes__one_that_is_killed_and_comes_back_loses_no_step_after_the_checkpoint(job, two_processes, lost):
    """On a common folder. Node 0 hosts the rendezvous, and its process, by the lower pid, writes the checkpoint."""
    port = two_nodes(job)
    nodes = [start(job)]
    wait_for_port(port, nodes[0])
    nodes.append(start(job))
    wait_for_checkpoint(nodes[0], job, steps=5)
    said = Lines(nodes[1 - lost])
    kill(nodes[lost])
    said.wait_for("is lost" if lost == 0 else "begin again")
    done = step_of(checkpoint(job))
    nodes[lost] = start(job)
    outputs = [nodes[lost].communicate(timeout=120)[0], nodes[1 - lost].stdout.read()]
    assert [process.wait(timeout=60) for process in nodes] == [0, 0], said.found
    resumed = [line for output in outputs for line in output.splitlines() if "resumes at step" in line]
    assert resumed == [f"pretrain {JOB}: resumes at step {done} of {two_processes[0][-1]['step']}"]
    assert_same_bits(two_processes, outcome(job))
