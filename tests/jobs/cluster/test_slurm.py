"""A job on commands that stand in for SLURM's, through submitit's own code: no cluster is needed."""

import os
import pickletools
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from config.params import Runtime, load_runtime
from jobs.cluster import slurm
from jobs.stage import Terminated
from shards.locks import lock
from tests.conftest import wait_until
from tests.jobs.cluster import fake_slurm
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
    "partition": "gpu", "minutes": 7, "gpus_per_node": 1, "cpus_per_task": 3, "options": {"account": "vision"},
}  # fmt: skip
# What torchrun starts: it saves at SIGTERM, on all nodes as soon as on one, and ends well when it finds what it saved.
WORK = """
import json, os, signal, sys, time
from pathlib import Path
if sys.argv[1:] == ["mistake"]:
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": "work: mend that", "timestamp": 0}))
    sys.exit(65)
mark = Path("saved")
if mark.exists():
    print("goes on", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: mark.touch())
print("began", flush=True)
while not mark.exists():
    time.sleep(0.05)
sys.exit(143)
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The folder of a SLURM whose commands are on PATH."""
    state, commands = tmp_path / "slurm", tmp_path / "bin"
    state.mkdir()
    commands.mkdir()
    for name in ("sbatch", "srun", "scancel", "scontrol", "squeue", "sacct"):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {fake_slurm.__file__} {name} "$@"\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(state))
    yield state
    for path in state.glob("*.state"):
        path.with_suffix(".end").touch()
        wait_until(lambda path=path: path.read_text() not in ("PENDING", "RUNNING"))


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
            wait_until(self._is_so)
            self._act()
        except BaseException as error:
            self._error = error

    def check(self):
        self.join(timeout=60)
        assert not self.is_alive() and self._error is None, self._error


def only_job(state):
    (path,) = state.glob("*.state")
    return path.stem


def run(*arguments, **changes):
    slurm.run_job("work-0", "work", arguments, world_size=2, runtime=runtime(nodes=2, **changes))


def test_port__is_one_that_linux_does_not_give_away():
    found = [slurm.port(str(number)) for number in range(0, 10**8, 9973)]
    assert min(found) >= 20000 and max(found) < 32768 and len(set(found)) > 5000


def test_run_job__without_slurm_says_where_to_run(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"launcher: got slurm, but there is no sbatch here"):
        run()


def test_run_job__what_sbatch_refuses_is_one_line(cluster, work):
    (cluster.parent / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    with pytest.raises(ValueError, match=r"sbatch refused the job: .*invalid partition"):
        run()


@pytest.mark.slow
def test_run_job__a_preempted_job_saves_is_queued_again_and_goes_on(cluster, work, capsys):
    def preempt():
        for name in ("SIGTERM", "SIGUSR2"):
            subprocess.run(["scancel", only_job(cluster), "--signal", name], check=True)

    preemption = When(lambda: logs(work).count("began") == 2, preempt)
    run()
    preemption.check()
    output = capsys.readouterr().out
    assert output.count("began") == output.count("goes on") == 2
    number = only_job(cluster)
    assert f"work-0: job {number} of slurm, 2 nodes" in output
    text = (cluster / f"{number}.sh").read_text()
    for option in ("nodes=2", "ntasks-per-node=1", "partition=gpu", "time=7", "gpus-per-node=1", "cpus-per-task=3",
                   "account=vision", "signal=USR2@90", "job-name=work-0"):  # fmt: skip
        assert f"#SBATCH --{option}\n" in text
    assert not submissions(work)


@pytest.mark.slow
def test_run_job__sigterm_cancels_the_job_which_saves_and_ends_at_once(cluster, work):
    termination = When(lambda: logs(work).count("began") == 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Terminated):
        run()
    termination.check()
    number = only_job(cluster)
    wait_until(lambda: (cluster / f"{number}.state").read_text() == "CANCELLED", 100)
    assert not (cluster / f"{number}.killed").exists(), "it ended by itself"
    assert (work / "saved").exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in (cluster / f"{number}.tasks").read_text().split())
    (folder,) = submissions(work)
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((work / ".semmae" / "slurm").stat().st_mode) == 0o700
    assert classes_in(folder / f"{number}_submitted.pkl") == {
        "submitit.core.utils DelayedSubmission", "jobs.cluster.slurm Node",
    }  # fmt: skip


def test_end_left__touches_no_job_but_those_of_this_stage_that_are_not_over(cluster, work, capsys):
    def put(number, name, state, folder):
        (cluster / f"{number}.sh").write_text(f"#SBATCH --job-name={name}\n")
        (cluster / f"{number}.state").write_text(state)
        if folder is not None:
            (folder / "20260101-000000-1").mkdir(parents=True, exist_ok=True)
            (folder / "20260101-000000-1" / f"{number}_submitted.pkl").touch()

    mine, longer = slurm._submissions("work-0"), slurm._submissions("work-01")
    put(1, "work-0", "FAILED", mine)
    put(2, "work-01", "RUNNING", longer)
    put(3, "work-0", "RUNNING", None)  # of another worktree
    put(4, "work-01", "RUNNING", mine)  # SLURM has given the number away again
    slurm._end_left("work-0", mine)
    slurm._end_left("nonesuch", slurm._submissions("nonesuch"))
    assert not list(cluster.glob("*.cancel")) and not list(work.rglob("cancelled"))
    assert capsys.readouterr().out == ""
    for state in cluster.glob("*.state"):
        state.write_text("COMPLETED")


def test_end_left__a_slurm_that_does_not_answer_is_one_line(cluster, work):
    (slurm._submissions("work-0") / "1-1").mkdir(parents=True)
    (slurm._submissions("work-0") / "1-1" / "7_submitted.pkl").touch()
    (cluster.parent / "bin" / "squeue").write_text(
        "#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact' >&2\nexit 1\n"
    )
    with pytest.raises(ValueError, match=r"^work-0: squeue does not list the queue: .*Unable to contact; run it"):
        run()


def test_run_job__of_two_executions_the_second_is_refused(cluster, work):
    with (
        lock(slurm._submissions("work-0"), "work-0"),
        pytest.raises(ValueError, match=r"^work-0: another process runs"),
    ):
        run()
    assert not list(cluster.iterdir())


@pytest.mark.slow
def test_run_job__what_a_killed_stage_left_in_the_queue_saves_and_ends_before_the_next_is_submitted(
    cluster, work, monkeypatch, capsys
):
    monkeypatch.setattr(slurm, "ASK_SECONDS", 0.1)
    command = [sys.executable, "-c", "from tests.jobs.cluster.test_slurm import run; run()"]
    killed = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": f"{work}:{ROOT}"})
    wait_until(lambda: logs(work).count("began") == 2, 60)
    killed.kill()
    killed.wait()
    left = only_job(cluster)
    assert (cluster / f"{left}.state").read_text() == "RUNNING"
    run()
    output = capsys.readouterr().out
    assert f"work-0: cancels job {left}, which a killed execution left, and waits until it has ended\n" in output
    assert output.count("goes on") == 2 and "began" not in output
    assert (cluster / f"{left}.state").read_text() == "CANCELLED"
    assert not (cluster / f"{left}.killed").exists(), "it ended by itself"
    (script,) = (path for path in cluster.glob("*.sh") if path.stem != left)
    assert (cluster / f"{left}.state").stat().st_mtime < script.stat().st_mtime
    assert len(submissions(work)) == 1, "the logs of the killed one are kept"


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
    with pytest.raises(ValueError, match=rf"failed on node \d with exit code \d+: {line}"):
        run("mistake")
    state = cluster / f"{only_job(cluster)}.state"
    wait_until(lambda: state.read_text() not in ("PENDING", "RUNNING"), 100)
    assert state.read_text() == "COMPLETED", "a mistake is no reason to queue it again"


@pytest.mark.slow
def test_pretrain__two_nodes_of_a_job_give_the_bits_of_one_node(job, two_processes, cluster):
    write(job, batch_size=7, epochs=5, world_size=2)
    write_runtime(job, launcher="slurm", nodes=2, slurm={**OPTIONS, "gpus_per_node": 0})
    output = finish(start(job))
    assert f"pretrain-{JOB}: job {only_job(cluster)} of slurm, 2 nodes" in output
    assert "2 processes on 2 nodes" in output and "images/s" in output
    assert record(job)["device"] == "cpu" and record(job)["peak_mib"] >= record(job, "first")["peak_mib"]
    assert_same_bits(two_processes, outcome(job))
