"""SLURM of Debian's packages on this machine alone: a controller and two nodes that the tests start, in a folder of their own."""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.conftest import wait_until
from tests.jobs.cluster.conftest import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
# Names that resolve to this machine, whatever its own name does.
NODES = ("127.0.0.1", "127.0.0.2")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
KillWait=10
MessageTimeout=60
BatchStartTimeout=60
FirstJobId={first_job}
{nodes}
PartitionName=gpu Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=2 State=UP
"""


def missing():
    """The programs that are not installed."""
    return [program for program in PROGRAMS if find(program) is None]


def find(program):
    # Not every user has the folder of daemons on PATH.
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")


@contextlib.contextmanager
def cluster():
    """The configuration file of a cluster whose nodes are idle; its jobs and daemons end with the block."""
    # A socket's path has 107 characters at most, which a test's own folder may exceed.
    folder, daemons = Path(tempfile.mkdtemp(prefix="slurm-")), []
    configuration = folder / "slurm.conf"
    environment = {**os.environ, "SLURM_CONF": str(configuration)}

    def start(name, *words):
        with open(folder / f"{name}.log", "wb") as log:
            daemons.append(subprocess.Popen([find(words[0]), *words[1:]], env=environment, stdout=log, stderr=log))

    def ask(*words):
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout

    def is_ready():
        assert all(daemon.poll() is None for daemon in daemons), logs()
        return ask("sinfo", "--noheader", "--partition=gpu", "--states=idle", "--format=%D").strip() == str(len(NODES))

    def logs():
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-2000:]}" for path in folder.glob("*.log"))

    try:
        for name in ("state", *NODES):
            (folder / name).mkdir()
        (folder / "key").touch(mode=0o600)
        (folder / "key").write_bytes(secrets.token_bytes(128))
        nodes = "\n".join(f"NodeName={node} NodeAddr={node} Port={free_port()} CPUs=4" for node in NODES)
        text = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0], port=free_port(), user=getpass.getuser(), folder=folder,
            nodes=nodes,
            # Jobs meet at ports that follow from their numbers: other ones than in another cluster of this machine.
            first_job=time.time_ns() // 10**6 % 10**7 + 1,
        )  # fmt: skip
        configuration.write_text(text)
        files = [f"--{name}={folder / path}" for name, path in (
            ("socket", "munge.socket"), ("key-file", "key"), ("pid-file", "munge.pid"), ("seed-file", "seed"),
            ("log-file", "munged.own.log"),
        )]  # fmt: skip
        start("munged", "munged", "--foreground", "--force", *files)
        wait_until(lambda: (folder / "munge.socket").exists(), 60)
        start("slurmctld", "slurmctld", "-D")
        for node in NODES:
            start(node, "slurmd", "-D", "-N", node)
        wait_until(is_ready, 60)
        # One that does not run a command runs no job of ours.
        ran = ask("srun", f"--nodes={len(NODES)}", "hostname")
        assert len(ran.splitlines()) == len(NODES), logs()
        yield configuration
    finally:
        if len(daemons) > 1:
            with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
                ask("scancel", "--me", "--signal=KILL", "--full")
                ask("scancel", "--me")
                wait_until(lambda: not ask("squeue", "--noheader"), 60)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)
