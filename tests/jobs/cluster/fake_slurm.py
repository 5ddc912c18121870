"""SLURM's commands for one user on one machine, where every node is this one: `python fake_slurm.py COMMAND ARGUMENTS`.

A job is a few files in the folder that FAKE_SLURM names: NUMBER.sh is what was submitted, NUMBER.state what became of it.
Signals go where SLURM sends them: to the tasks that srun started, not to what those started.
"""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

# Seconds from a mark to SIGKILL for what is left of the job: SLURM's KillWait for one that is cancelled; not at once for
# one that is queued again, for who asks is a process of it; and the end of a test.
MARKS = {"cancel": 60.0, "requeue": 0.5, "end": 0.0}


def place(number, kind):
    return Path(os.environ["FAKE_SLURM"]) / f"{number}.{kind}"


def put(number, state):
    """Whole or not at all: it is read at any moment."""
    place(number, "new").write_text(state)
    place(number, "new").replace(place(number, "state"))


def sbatch(script):
    # Unlike any other of this test session: submitit remembers how a job ended.
    number = time.time_ns() // 10**6 % 10**8
    place(number, "sh").write_text(Path(script).read_text())
    put(number, "PENDING")
    subprocess.Popen(
        [sys.executable, __file__, "serve", str(number)], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    print(f"Submitted batch job {number}")


def serve(number):
    """The controller: runs the script, again after each request to queue it again."""
    nodes = re.search(r"#SBATCH --nodes=(\d+)", place(number, "sh").read_text())[1]
    variables = {"SLURM_JOB_ID": number, "SLURM_JOB_NUM_NODES": nodes, "SLURM_NTASKS": nodes,
                 "SLURM_JOB_NODELIST": ",".join(["localhost"] * int(nodes))}  # fmt: skip
    while True:
        place(number, "tasks").write_text("")
        put(number, "RUNNING")
        job = subprocess.Popen(["bash", place(number, "sh")], env={**os.environ, **variables}, start_new_session=True)
        while job.poll() is None:
            marks = {kind: place(number, kind) for kind in MARKS if place(number, kind).exists()}
            if any(time.time() - mark.stat().st_mtime > MARKS[kind] for kind, mark in marks.items()):
                place(number, "killed").touch()
                os.killpg(job.pid, signal.SIGKILL)
            time.sleep(0.05)
        if place(number, "end").exists() or not place(number, "requeue").exists():
            break
        place(number, "requeue").unlink()
        put(number, "PENDING")
    ended = "CANCELLED" if place(number, "cancel").exists() else "FAILED" if job.returncode else "COMPLETED"
    put(number, ended)


def srun(*words):
    words, streams = list(words), {"--output": "", "--error": ""}
    while words[0].startswith("--"):
        option, given, value = words.pop(0).partition("=")
        if option in streams:
            streams[option] = value if given else words.pop(0)
    number, tasks = os.environ["SLURM_JOB_ID"], []
    for task in range(int(os.environ["SLURM_NTASKS"])):
        names = [path.replace("%j", number).replace("%t", str(task)) for path in streams.values()]
        variables = {"SLURM_PROCID": str(task), "SLURM_NODEID": str(task), "SLURM_LOCALID": "0"}
        with open(names[0], "a") as output, open(names[1], "a") as errors:
            tasks.append(subprocess.Popen(words, env={**os.environ, **variables}, stdout=output, stderr=errors))
    place(number, "tasks").write_text(" ".join(str(task.pid) for task in tasks))
    sys.exit(max(abs(task.wait()) for task in tasks))


def scancel(number, *options):
    words = " ".join(options).replace("=", " ").split()
    if words:
        signals = [signal.Signals[words[1]]]
    else:
        signals = [signal.SIGCONT, signal.SIGTERM]
        place(number, "cancel").touch()
    for pid in place(number, "tasks").read_text().split():
        for one in signals:
            os.kill(int(pid), one)


def scontrol(action, number):
    assert action == "requeue"
    place(number, "requeue").touch()


def squeue(*options):
    name = next(option.removeprefix("--name=") for option in options if option.startswith("--name="))
    for path in Path(os.environ["FAKE_SLURM"]).glob("*.state"):
        script = place(path.stem, "sh").read_text()
        if f"#SBATCH --job-name={name}\n" in script and path.read_text() in ("PENDING", "RUNNING"):
            print(path.stem)


def sacct(*options):
    fields = options[options.index("-o") + 1].split(",")
    print("|".join(fields))
    for number in (
        value for flag, value in itertools.pairwise(options) if flag == "-j" and place(value, "state").exists()
    ):
        values = {"JobID": number, "State": place(number, "state").read_text(), "NodeList": "localhost"}
        print("|".join(values.get(field, "") for field in fields))


if __name__ == "__main__":
    {function.__name__: function for function in (sbatch, serve, srun, scancel, scontrol, squeue, sacct)}[sys.argv[1]](
        *sys.argv[2:]
    )
