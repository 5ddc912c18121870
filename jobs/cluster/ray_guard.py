"""Ends what is left of a Ray cluster when the stage that started it is killed: `python -m jobs.cluster.ray_guard STAGE FOLDER`.

Ray has the kernel kill its servers with their parent, and workers see that at once. But two agents below a server take a minute
to report it to another one that is gone as well, and the folder with logs and sockets would stay.
"""

import os
import shutil
import sys
import time
from contextlib import suppress

import psutil

from jobs.supervision import is_alive

LOOK_SECONDS = 1.0
END_SECONDS = 10.0


def main() -> None:
    """STAGE: as `jobs.supervision.identity` names it."""
    stage, folder = sys.argv[1:]
    started: dict[int, psutil.Process] = {}
    while is_alive(stage):
        # Remembered while there is somebody whose descendants they are. Ray writes over the environment of its processes, so
        # that a mark in it would not be found.
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(int(stage.partition(":")[0])).children(recursive=True)
            started |= {process.pid: process for process in below if process.pid != os.getpid()}
        time.sleep(LOOK_SECONDS)
    for process in started.values():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(started.values()), END_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
