"""Stages that still run although the walk that started them is gone."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from jobs.supervision import GRACE_SECONDS, SUPERVISOR, end_tree, is_alive
from pipeline.doctor.processes import with_variable
from pipeline.doctor.trees import trees

# A stage that outlives its supervisor ends itself within the grace, and a second for its next look.
ENDING_SECONDS = GRACE_SECONDS + 5


def abandoned_stages(*, repair: bool) -> Iterator[str]:
    """Stages of our trees that should have ended themselves."""
    abandoned: dict[int, tuple[psutil.Process, str]] = {}
    for process, supervisor in with_variable(SUPERVISOR):
        with contextlib.suppress(psutil.Error):
            is_ours = process.pid != os.getpid() and any(Path(process.cwd()).is_relative_to(tree) for tree in trees())
            if is_ours and not is_alive(supervisor) and time.time() - process.create_time() > ENDING_SECONDS:
                abandoned[process.pid] = process, " ".join(" ".join(process.cmdline()).split())[:100]
    for pid, (process, command) in abandoned.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.ppid() in abandoned:
                continue
            if repair:
                end_tree(pid)
            yield f"process {pid} ({command}): its walk is gone; {'ended' if repair else 'repair ends it'}"
