"""Resume state that no job will continue from."""

import contextlib
import shutil
import time
from collections.abc import Iterator

from jobs.state import state_folder
from pipeline.experiments import FINISHED, experiments
from shards.locks import lock

SCRATCH_DAYS = 7.0


def old_scratch(*, repair: bool) -> Iterator[str]:
    """Folders of resume state that no process holds and nothing was written to for `SCRATCH_DAYS`.

    What a killed job saved is precious, and whether its fingerprint still is that of a job cannot be known without hashing
    all data. So nothing counts that an unfinished experiment, which began before the last checkpoint, may continue from.
    """
    unfinished = [experiment.started for experiment in experiments() if experiment.status != FINISHED]
    for folder in sorted((state_folder() / "scratch").glob("*/*/")):
        # Of the folder: each new checkpoint renews it.
        written = folder.stat().st_mtime
        days = (time.time() - written) / 86400
        if days < SCRATCH_DAYS or any(started <= written for started in unfinished):
            continue
        try:
            held = lock(folder, folder.parent.name)
        except ValueError:
            continue
        with held:
            if repair:
                shutil.rmtree(folder)
                with contextlib.suppress(OSError):  # folders of other jobs are beside it
                    folder.parent.rmdir()
        yield f"{folder}: resume state that nobody used for {days:.0f} days; {'removed' if repair else 'repair removes it'}"
