"""Run a training as one job of SLURM: submit it, pass on its lines, save and queue it again when it is preempted.

submitit pickles what it submits, and what that returns, in a folder of its own. Here that is `Node`, a few words and
numbers, and an exit code; the folder is this user's alone, and is removed with a job that ended well.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from config.params import Runtime, SlurmRuntime
from config.redaction import one_line
from jobs.cluster.torchrun import SAVED, Child, command, share
from jobs.stage import Terminated, Termination
from jobs.state import own_state
from shards.locks import lock

LOOK_SECONDS = 1.0
# Between questions to SLURM, and between lines about a job that waits: a walk ends silent stages.
ASK_SECONDS, WAITING_SECONDS = 15.0, 300.0
# Before the time limit, or at preemption where the cluster says so: for training to save.
WARNING_SECONDS = 90
# Time limits that one job may reach; each is as long as the user says, and a checkpoint follows.
REQUEUES = 1000
# The first of as many ports, below those that Linux gives away by itself; the job's number chooses.
FIRST_PORT, PORTS = 20000, 12000
LAST_LINES = 5
# File in the folder of a submission whose job is cancelled.
CANCELLED = "cancelled"
# Lines that stay in the logs: submitit calls a job successful whatever exit code it returns.
SUBMITITS_OWN = "submitit INFO"


@dataclass(frozen=True)
class Node:
    """What SLURM starts on each node: torchrun with the node's share of the processes. Pickled, so of plain data alone.

    cancelled: file that appears when the user cancels the job: SLURM sends the same signal when it preempts one.
    """

    job: str
    module: str
    arguments: tuple[str, ...]
    world_size: int
    restarts: int
    join_seconds: int
    cancelled: str

    def __call__(self) -> int:
        """Run to the end and return torchrun's exit code; what was stopped has no result, it may be queued again."""
        here = submitit.JobEnvironment()
        # The names by which SLURM's nodes reach each other; a machine may call itself otherwise.
        os.environ["PET_LOCAL_ADDR"] = here.hostnames[here.node]
        words = command(
            self.job,
            self.module,
            self.arguments,
            world_size=self.world_size,
            nodes=here.num_nodes,
            rendezvous=f"{here.hostnames[0]}:{port(here.job_id)}",
            restarts=self.restarts,
            join_seconds=self.join_seconds,
        )
        child = Child(words, writes=False)
        _children.append(child)
        code = child.wait()
        if not child.was_stopped and code != SAVED:
            return code
        # SLURM warns after SIGTERM, and submitit queues the job again at the warning.
        deadline = time.monotonic() + WARNING_SECONDS
        while time.monotonic() < deadline and not Path(self.cancelled).exists():
            time.sleep(LOOK_SECONDS / 5)
        raise SystemExit(SAVED)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What submitit queues again after SLURM's warning: the same, when the processes have saved."""
        for child in _children:
            child.stop_and_wait()
        return submitit.helpers.DelayedSubmission(self)


# The torchrun of this task, for `Node.checkpoint`; not an attribute of Node, which is pickled.
_children: list[Child] = []


def port(job_id: str) -> int:
    """Port of the rendezvous: another one for each of the jobs that may share a node."""
    return FIRST_PORT + int(re.sub(r"\D", "", job_id)) % PORTS


def run_job(job: str, module: str, arguments: Sequence[str], *, world_size: int, runtime: Runtime) -> None:
    """Submit the stage as one job of `runtime.nodes` nodes, pass its lines on, and return when it has ended well.

    A job that a killed execution left in the queue is cancelled first. SIGTERM cancels the job and waits for its end, then
    raises `Terminated`. ValueError with the last lines and the place of the logs when the job failed, and where another
    process follows the same job.
    """
    if shutil.which("sbatch") is None:
        raise ValueError("launcher: got slurm, but there is no sbatch here; run on a login node or use launcher: local")
    share(world_size, runtime.nodes)
    submissions = _submissions(job)
    with lock(submissions, job):
        _end_left(job, submissions)
        folder = submissions / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        folder.mkdir(mode=0o700)
        cancelled = str(folder.resolve() / CANCELLED)
        node = Node(job, module, tuple(arguments), world_size, runtime.restarts, runtime.join_seconds, cancelled)
        with Termination() as cancelling:
            submitted = _submit(node, folder, runtime.nodes, runtime.slurm)
            print(f"{job}: job {submitted.job_id} of slurm, {runtime.nodes} nodes, logs in {folder}", flush=True)
            last = _follow(submitted, node, cancelling)
        if cancelling.requested:
            raise Terminated
        if failure := _failure(submitted):
            raise ValueError(f"job {submitted.job_id} of slurm {failure}: {' | '.join(last)}; logs in {folder}")
        shutil.rmtree(folder)


def _submissions(job: str) -> Path:
    """The folder of a job's submissions, which nobody else may read or, as they hold pickles, write."""
    parent = own_state() / "slurm"
    parent.mkdir(parents=True, exist_ok=True)
    parent.chmod(0o700)
    return parent / job


def _end_left(job: str, submissions: Path) -> None:
    """Cancel the job that a killed execution left in the queue, and return when it has saved and ended.

    Raises ValueError where SLURM does not list its queue.
    """
    # The stage does not follow the old job: parameters may have changed since, and its outs would be recorded with the
    # new ones. Where they have not, the new job resumes from its checkpoint.
    left = {path.name.partition("_")[0]: path.parent for path in submissions.glob("*/*_submitted.pkl")}
    if not left:
        return
    for number in left.keys() & _queued(job).keys():
        print(f"{job}: cancels job {number}, which a killed execution left, and waits until it has ended", flush=True)
        (left[number] / CANCELLED).touch()
        submitit.SlurmJob(left[number], number).cancel(check=False)
    while left.keys() & _queued(job).keys():
        time.sleep(ASK_SECONDS)


def _queued(job: str) -> dict[str, str]:
    """Number and state of the jobs of that name in the queue; sacct is late, and not every cluster has it."""
    words = ["squeue", "--me", "--all", "--noheader", f"--name={job}", "--format=%A %T"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ValueError(f"{job}: squeue does not list the queue: {one_line(answer.stderr)}; run it again later")
    return dict(line.split() for line in answer.stdout.splitlines())


def _submit(node: Node, folder: Path, nodes: int, options: SlurmRuntime) -> submitit.Job:
    """The submitted job. Raises ValueError with SLURM's own words where it refuses."""
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=REQUEUES)
    more: dict[str, Any] = {"slurm_partition": options.partition} if options.partition else {}
    if options.gpus_per_node:
        more["gpus_per_node"] = options.gpus_per_node
    # The default of `requeue` differs between clusters.
    more["slurm_additional_parameters"] = {"requeue": True, **options.options}
    try:
        executor.update_parameters(
            name=node.job,
            nodes=nodes,
            tasks_per_node=1,
            cpus_per_task=options.cpus_per_task,
            timeout_min=options.minutes,
            slurm_signal_delay_s=WARNING_SECONDS,
            # Since SLURM 22.05 srun does not inherit it from sbatch.
            slurm_srun_args=[f"--cpus-per-task={options.cpus_per_task}"],
            **more,
        )
        return executor.submit(node)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise ValueError(f"sbatch refused the job: {error}; see `slurm` in runtime.yaml") from None


def _follow(submitted: submitit.Job, node: Node, cancelling: Termination) -> deque[str]:
    """Pass on what the tasks print until the job has ended, and cancel it when asked to; returns the last lines."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    tasks = [submitted.task(number).paths for number in range(submitted.num_tasks)]
    streams = [(path.stdout, sys.stdout) for path in tasks] + [(path.stderr, sys.stderr) for path in tasks]
    offsets: dict[Path, int] = {}
    state, before, asked_at, printed_at = "submitted", "", -ASK_SECONDS, time.monotonic()
    is_cancelled, is_over = False, False
    while not is_over:
        if cancelling.requested and not is_cancelled:
            is_cancelled = True
            Path(node.cancelled).touch()
            submitted.cancel(check=False)
        now = time.monotonic()
        if now - asked_at >= (LOOK_SECONDS if is_cancelled else ASK_SECONDS):
            asked_at, before = now, state
            with suppress(ValueError):  # The controller may be restarting.
                state = _queued(node.job).get(submitted.job_id, "")
            if state and (state != before or (state != "RUNNING" and now - printed_at >= WAITING_SECONDS)):
                printed_at = now
                print(f"{node.job}: job {submitted.job_id} is {state}", flush=True)
        # A job that failed may be queued again; results may arrive after it has left the queue. Asked before reading: the
        # last lines of a task are then in its file.
        is_over = not (state or before) or not _failure(submitted)
        for path, stream in streams:
            for line in _new_lines(path, offsets):
                if not line.startswith(SUBMITITS_OWN):
                    print(line, file=stream, flush=True)
                    last.append(line)
        if not is_over:
            time.sleep(LOOK_SECONDS)
    return last


def _new_lines(path: Path, offsets: dict[Path, int]) -> list[str]:
    """The complete lines of a growing file after its offset, which moves on; none where there is no file yet."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        file.seek(offsets.get(path, 0))
        lines, newline, _ = file.read().rpartition(b"\n")
        offsets[path] = offsets.get(path, 0) + len(lines) + len(newline)
        return lines.decode("utf-8", errors="replace").split("\n") if newline else []
    return []


def _failure(submitted: submitit.Job) -> str:
    """How a job failed, as far as its tasks' results say; empty where all returned 0."""
    # NFS then asks its server for the files that other nodes have made.
    submitted.paths.folder.chmod(0o700)
    for number in range(submitted.num_tasks):
        task = submitted.task(number)
        if not task.paths.result_pickle.exists():
            return f"ended without a result of node {number}"
        try:
            code = task.result()
        except submitit.core.utils.FailedJobError:
            return f"failed on node {number}"
        if code:
            return f"failed on node {number} with exit code {code}"
    return ""
