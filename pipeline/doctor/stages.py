"""Stages that still run although the walk or the DVC that started them is gone."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from jobs.supervision import GRACE_SECONDS, SUPERVISOR, end_tree, is_alive
from pipeline.doctor.dvc_locks import runs_stages
from pipeline.doctor.findings import Finding
from pipeline.doctor.processes import with_variable
from pipeline.doctor.trees import trees

# A stage that outlives its supervisor ends itself within the grace, and a second for its next look.
ENDING_SECONDS = GRACE_SECONDS + 5
END = ("repair ends it", "ended")


def abandoned_stages(*, repair: bool) -> Iterator[Finding]:
    """Stages of our trees that should have ended themselves."""
    abandoned: dict[int, tuple[psutil.Process, str]] = {}
    # DVC names the stage to all that it starts, and nobody who answers for it.
    for process, _ in (*with_variable(SUPERVISOR), *with_variable("DVC_STAGE")):
        with contextlib.suppress(psutil.Error):
            is_ours = process.pid != os.getpid() and any(Path(process.cwd()).is_relative_to(tree) for tree in trees())
            if is_ours and time.time() - process.create_time() > ENDING_SECONDS and not _is_led(process):
                abandoned[process.pid] = process, " ".join(" ".join(process.cmdline()).split())[:100]
    for pid, (process, command) in abandoned.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.ppid() in abandoned:
                continue
            if repair:
                end_tree(pid)
            yield Finding(f"process {pid}", "a stage whose walk or DVC is gone", END[repair], command)


def _is_led(process: psutil.Process) -> bool:
    """Whether its walk lives; of a stage without one, whether a DVC runs stages in its folder, or is above it."""
    if supervisor := process.environ().get(SUPERVISOR):
        return is_alive(supervisor)
    above = (Path(word).name for one in process.parents() for word in one.cmdline()[:3])
    return runs_stages(Path(process.cwd())) or "dvc" in above
