"""Jobs on a real SLURM of two nodes on this machine."""

import contextlib
import multiprocessing
import os
import pickletools
import re
import signal
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from config.params import Runtime, load_runtime
from jobs.cluster import slurm
from jobs.stage import Terminated
from shards.locks import lock
from tests.conftest import wait_until
from tests.jobs.cluster import slurm_daemons
from tests.jobs.cluster.conftest import (
    JOB,
    assert_same_bits,
    finish,
    outcome,
    record,
    start,
    write,
    write_runtime,
)

ROOT = Path(__file__).parents[3]
OPTIONS = {
    "partition": "gpu", "minutes": 7, "gpus_per_node": 0, "cpus_per_task": 3, "options": {},
}  # fmt: skip
# What torchrun starts: it saves at SIGTERM, on all nodes as soon as on one, and ends well when it finds that so many times.
WORK = """
import json, os, signal, sys, time
from pathlib import Path
if sys.argv[1:] == ["mistake"]:
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": "work: mend that", "timestamp": 0}))
    sys.exit(65)
times = len(list(Path().glob("saved-*")))
if times >= int(sys.argv[1]):
    print("ends", flush=True)
    sys.exit(0)
mark = Path(f"saved-{times}")
signal.signal(signal.SIGTERM, lambda *_: mark.touch())
print(f"saved {times} times", flush=True)
while not mark.exists():
    time.sleep(0.05)
sys.exit(143)
"""


@pytest.fixture(scope="module")
def daemons():
    if missing := slurm_daemons.missing():
        pytest.skip(f"no SLURM on this machine ({', '.join(missing)}): jobs on it were not tested; see .ci/run")
    with contextlib.ExitStack() as stack:
        try:
            configuration = stack.enter_context(slurm_daemons.cluster())
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"SLURM does not start on this machine, jobs on it were not tested: {error}")
        yield configuration


@pytest.fixture
def cluster(daemons, monkeypatch):
    """A SLURM of two nodes whose commands are on PATH, and what it says of a job."""
    monkeypatch.setenv("SLURM_CONF", str(daemons))
    monkeypatch.setattr(slurm, "ASK_SECONDS", 1.0)
    yield
    subprocess.run(["scancel", "--me"], check=True)
    wait_until(lambda: not ask("squeue", "--noheader"), 60, every=0.2)


def ask(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def state_of(number):
    return ask("squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%T")


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with the code and a stage that only waits to be stopped."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("config", "jobs", "shards"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "work.py").write_text(WORK)
    monkeypatch.chdir(folder)
    return folder


def runtime(**changes):
    return Runtime(
        **{**load_runtime(ROOT / "runtime.yaml").model_dump(), "launcher": "slurm", "slurm": OPTIONS, **changes}
    )


def submissions(folder):
    return [path for path in (folder / ".semmae" / "slurm" / "work-0").iterdir() if path.is_dir()]


def logs(folder):
    return "".join(path.read_text() for path in folder.glob(".semmae/slurm/*/*/*_log.out"))


class When(threading.Thread):
    """Does something as soon as something is so, while the main thread follows a job; its error is the test's."""

    def __init__(self, is_so, act):
        super().__init__(daemon=True)
        self._is_so, self._act, self._error = is_so, act, None
        self.start()

    def run(self):
        try:
            wait_until(self._is_so, 100)
            self._act()
        except BaseException as error:
            self._error = error

    def check(self):
        self.join(timeout=100)
        assert not self.is_alive() and self._error is None, self._error


def job_of(folder):
    """The number of the job that was submitted last."""
    return max((path.name.partition("_")[0] for path in folder.glob(".semmae/slurm/*/*/*_submitted.pkl")), key=int)


def run(*arguments, nodes=2, **changes):
    slurm.run_job("work-0", "work", arguments, world_size=2, runtime=runtime(nodes=nodes, **changes))


def work_is_at(folder, times):
    """Whether both processes of the job have begun after so many savings."""
    return logs(folder).count(f"saved {times} times") == 2


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Puts a command on PATH that is none of SLURM's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return put


def test_port__is_one_that_linux_does_not_give_away():
    found = [slurm.port(str(number)) for number in range(0, 10**8, 9973)]
    assert min(found) >= 20000 and max(found) < 32768 and len(set(found)) > 5000


def test_run_job__without_slurm_says_where_to_run(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"launcher: got slurm, but there is no sbatch here"):
        run()


def test_run_job__a_slurm_that_does_not_answer_is_one_line(command, work):
    (slurm._submissions("work-0") / "1-1").mkdir(parents=True)
    (slurm._submissions("work-0") / "1-1" / "7_submitted.pkl").touch()
    command("sbatch", "exit 1")
    command("squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1")
    with pytest.raises(ValueError, match=r"^work-0: squeue does not list the queue: .*Unable to contact; run it"):
        run()


def test_run_job__of_two_executions_the_second_is_refused(command, work):
    command("sbatch", "touch was-called")
    with (
        lock(slurm._submissions("work-0"), "work-0"),
        pytest.raises(ValueError, match=r"^work-0: another process runs"),
    ):
        run()
    assert not (work / "was-called").exists()


@pytest.mark.slow
def test_run_job__what_sbatch_refuses_is_one_line(cluster, work):
    with pytest.raises(ValueError, match=r"sbatch refused the job: .*invalid partition specified: nonesuch"):
        run(slurm={**OPTIONS, "partition": "nonesuch"})


@pytest.mark.slow
def test_run_job__ends_what_a_killed_stage_left_and_goes_on_after_preemption_and_at_the_time_limit(
    cluster, work, capsys
):
    killed = multiprocessing.get_context("fork").Process(target=run, args=("3",), kwargs={"nodes": 1})
    killed.start()
    wait_until(lambda: work_is_at(work, 0), 100)
    killed.kill()
    killed.join()
    left, facts = job_of(work), []
    assert state_of(left) == "RUNNING"

    def disturb():
        number = job_of(work)
        facts.extend(ask("scontrol", "show", "job", number).split())
        facts.append(state_of(left))
        ask("sbatch", "--partition=urgent", "--nodes=2", "--cpus-per-task=4", "--output=/dev/null", "--wrap=true")
        start_again(number)
        wait_until(lambda: work_is_at(work, 2), 100)
        # What SLURM does ninety seconds before the limit.
        ask("scancel", "--signal=USR2", number)
        start_again(number)

    disturbance = When(lambda: work_is_at(work, 1), disturb)
    run("3", nodes=1)
    disturbance.check()
    output = capsys.readouterr().out
    assert f"work-0: cancels job {left}, which a killed execution left, and waits until it has ended\n" in output
    (number,) = (fact.removeprefix("JobId=") for fact in facts if fact.startswith("JobId="))
    assert f"work-0: job {number} of slurm, 1 nodes" in output
    assert [output.count(line) for line in ("saved 0", "saved 1", "saved 2", "ends")] == [0, 2, 2, 2]
    assert facts[-1] == "CANCELLED", "the job that was left ends before the next begins"
    expected = {"JobName=work-0", "Partition=gpu", "TimeLimit=00:07:00", "NumNodes=1", "NumTasks=1", "CPUs/Task=3"}
    assert expected | {"Requeue=1"} <= set(facts)
    assert len(submissions(work)) == 1, "the logs of the killed one are kept"


def start_again(number):
    """Start a job that SLURM has queued again, and lets wait for minutes."""
    wait_until(lambda: state_of(number) == "PENDING", 100, every=0.2)
    ask("scontrol", "update", f"JobId={number}", "StartTime=now")


@pytest.mark.slow
def test_run_job__sigterm_cancels_the_job_which_saves_and_ends_at_once(cluster, work):
    termination = When(lambda: work_is_at(work, 0), lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Terminated):
        run("1")
    termination.check()
    number = job_of(work)
    assert state_of(number) == "CANCELLED" and (work / "saved-0").exists()
    (folder,) = submissions(work)
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((work / ".semmae" / "slurm").stat().st_mode) == 0o700
    assert classes_in(folder / f"{number}_submitted.pkl") == {
        "submitit.core.utils DelayedSubmission", "jobs.cluster.slurm Node",
    }  # fmt: skip


@pytest.mark.slow
def test_end_left__touches_no_job_but_those_of_this_stage_that_are_not_over(cluster, work, capsys):
    def put(name, folder, *options):
        number = ask("sbatch", "--parsable", f"--job-name={name}", "--output=/dev/null", *options, "--wrap=true")
        if folder is not None:
            (folder / "20260101-000000-1").mkdir(parents=True, exist_ok=True)
            (folder / "20260101-000000-1" / f"{number}_submitted.pkl").touch()
        return number

    mine, longer = slurm._submissions("work-0"), slurm._submissions("work-01")
    over = put("work-0", mine)
    waiting = [
        put("work-01", longer, "--hold"),
        put("work-0", None, "--hold"),  # of another worktree
        put("work-01", mine, "--hold"),  # SLURM has given the number away again
    ]
    wait_until(lambda: state_of(over) == "COMPLETED", 60, every=0.2)
    slurm._end_left("work-0", mine)
    slurm._end_left("nonesuch", slurm._submissions("nonesuch"))
    assert [state_of(number) for number in waiting] == ["PENDING"] * 3 and not list(work.rglob("cancelled"))
    assert capsys.readouterr().out == ""


def classes_in(path):
    """Names of everything that a pickle would import."""
    found, texts = set(), []
    for code, argument, _ in pickletools.genops(path.read_bytes()):
        if code.name in ("SHORT_BINUNICODE", "BINUNICODE"):
            texts.append(argument)
        elif code.name == "STACK_GLOBAL":
            found.add(" ".join(texts[-2:]))
        elif code.name == "GLOBAL":
            found.add(argument)
    return found


@pytest.mark.slow
def test_run_job__one_that_fails_ends_with_its_last_lines_and_the_place_of_the_logs(cluster, work):
    line = r".*error: work: mend that.*; logs in .semmae/slurm/"
    with pytest.raises(ValueError, match=rf"failed on node 0 with exit code \d+: {line}"):
        run("mistake", nodes=1)
    number = job_of(work)
    wait_until(lambda: state_of(number) not in ("RUNNING", "COMPLETING"), 100, every=0.2)
    assert state_of(number) == "COMPLETED", "a mistake is no reason to queue it again"


@pytest.mark.slow
def test_pretrain__two_nodes_of_a_job_give_the_bits_of_one_node(job, two_processes, cluster):
    write(job, batch_size=7, epochs=5, world_size=2)
    write_runtime(job, launcher="slurm", nodes=2, slurm=OPTIONS)
    output = finish(start(job))
    assert re.search(rf"pretrain-{JOB}: job \d+ of slurm, 2 nodes", output)
    assert "2 processes on 2 nodes" in output and "images/s" in output
    assert record(job)["device"] == "cpu" and record(job)["peak_mib"] >= record(job, "first")["peak_mib"]
    assert_same_bits(two_processes, outcome(job))
