"""torchrun's agents on loopback: what each way to end means, and whole nodes that are lost and come back."""

import contextlib
import json
import os
import re
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
# One process for all calls, because the import of torch costs more than the rest.
CALLS = """
import json, sys
from training import agent
results = []
for arguments in json.loads(sys.argv[1]):
    told = []
    agent.tell = told.append
    results.append([agent.main(arguments), told])
print("result", json.dumps(results))
"""


def call(folder, *calls):
    """(exit code, lines for people) of `jobs.cluster.agent` for each list of arguments."""
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{folder}", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [sys.executable, "-c", CALLS, json.dumps(calls)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout.rpartition("result")[2])


@pytest.mark.slow
def test_main__only_what_was_lost_is_begun_again_and_nodes_that_do_not_come_are_named(tmp_path):
    (tmp_path / "work.py").write_text(WORK)
    ends = {0: (0, 1), 65: (65, 1), 143: (143, 1), 1: (1, 3), -9: (1, 3)}
    alone = ["--rdzv-backend=loopback", "--nproc-per-node=1", "--max-restarts=2", "-m", "work"]
    port = free_port()
    two = [
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=localhost:{port}",
        "--rdzv-id=j",
    ]
    conf = "--rdzv-conf=join_timeout=1,read_timeout=1"
    *codes, guest, host = call(
        tmp_path,
        *([*alone, str(tmp_path / f"marks{code}"), str(code)] for code in ends),
        [*two, f"{conf},is_host=0", "work"],
        [*two, f"{conf},is_host=1", "work"],
    )
    marks = [len((tmp_path / f"marks{code}").read_text()) for code in ends]
    assert dict(zip(ends, zip([code for code, _ in codes], marks, strict=True), strict=True)) == ends
    told = dict(zip(ends, [lines for _, lines in codes], strict=True))
    assert told[0] == told[143] == []
    assert told[65] == ["error: work: mend that"]
    for code, words in ((1, "ended with exit code 1"), (-9, "was ended by SIGKILL")):
        again = [re.sub("[0-9]+", "N", line, count=1) for line in told[code]]
        assert again == [
            f"torchrun: process N {words}; all processes begin again from the last checkpoint (1 restarts left)",
            f"torchrun: process N {words}; all processes begin again from the last checkpoint (0 restarts left)",
            f"error: torchrun: process N {words}",
        ]
    assert guest[0] == host[0] == 1
    assert len(guest[1]) == len(host[1]) == 1
    assert f"nobody answers at the rendezvous localhost:{port}" in guest[1][0]
    assert f"not all 2 nodes came to localhost:{port} within 1 s" in host[1][0]


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
    process.wait(timeout=60)


class Lines:
    """What a process prints, read as it comes."""

    def __init__(self, stream):
        self._found, self._heard = [], threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream):
        for line in stream:
            with self._heard:
                self._found.append(line)
                self._heard.notify_all()

    def wait_for(self, words):
        with self._heard:
            assert self._heard.wait_for(lambda: any(words in line for line in self._found), timeout=120), self._found

    def all(self):
        """Those of a process that has ended."""
        self._thread.join(timeout=60)
        return self._found


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
def test_two_nodes__each_that_is_killed_and_comes_back_loses_no_step_after_the_checkpoint(job, two_processes):
    """On a common folder. Node 0 hosts the rendezvous and, having the lower pid, writes: the last to be killed, for hard."""
    port = two_nodes(job)
    nodes = [start(job)]
    wait_for_port(port, nodes[0])
    nodes.append(start(job))
    said = [Lines(nodes[0].stderr), None]
    printed = [Lines(nodes[0].stdout), Lines(nodes[1].stdout)]
    done = []
    for lost, words in ((1, "begin again"), (0, "is lost")):
        wait_for_checkpoint(nodes[1 - lost], job, steps=5 + sum(done))
        kill(nodes[lost])
        said[1 - lost].wait_for(words)
        done.append(step_of(checkpoint(job)))
        nodes[lost] = start(job)
        said[lost] = Lines(nodes[lost].stderr)
        printed.append(Lines(nodes[lost].stdout))
    assert [process.wait(timeout=120) for process in nodes] == [0, 0], [lines.all() for lines in said]
    resumed = [line.strip() for lines in printed for line in lines.all() if "resumes at step" in line]
    steps = two_processes[0][-1]["step"]
    assert sorted(resumed) == sorted(f"pretrain {JOB}: resumes at step {step} of {steps}" for step in done)
    assert done[0] < done[1] < steps
    assert_same_bits(two_processes, outcome(job))


@pytest.mark.slow
def test_two_nodes__sigterm_on_one_ends_both_when_they_have_saved(job):
    port = two_nodes(job)
    nodes = [start(job)]
    wait_for_port(port, nodes[0])
    nodes.append(start(job))
    wait_for_checkpoint(nodes[0], job)
    nodes[1].send_signal(signal.SIGTERM)
    told = [process.communicate(timeout=120)[1] for process in nodes]
    assert [process.returncode for process in nodes] == [1, 143], told
    assert "error: pretrain: SIGTERM ended one of the processes, and all have saved" in told[0]
    assert "begin again" not in told[0] + told[1] and "Traceback" not in told[0] + told[1]
    assert checkpoint(job) is not None and not (job / "pretrained" / JOB).exists()
