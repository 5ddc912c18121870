"""Wall time of the pipeline as `dvc repro` and as the walk of `semmae run`, in fresh clones, and whether all digests agree.

    python -m benchmarks.walk --set creatures.train=600 --set creatures.test=200

Both run at `compute.threads` 1, so that the walk has a slot for every core; `dvc repro` at as many threads as there are
cores stands beside them.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from config.presets import write_params
from jobs.dvc_lock import digests_of, stage_entries
from pipeline.parameters import changed, parse_changes
from pipeline.slots import CPU, available
from pipeline.tracking.keys import REPLAY_STAGE

REPRO = [sys.executable, "-m", "dvc", "repro", "--quiet"]
WALK = [sys.executable, "-c", "from pipeline.cli import main; main()", "run"]


def clone(folder: Path, *, threads: int, preset: str, changes: list[str]) -> Path:
    """A fresh clone of the repository that this runs in, with these parameters and a DVC cache of its own."""
    subprocess.run(["git", "clone", "--quiet", ".", str(folder)], check=True)
    with contextlib.chdir(folder):
        document, _ = changed(preset=preset, changes={**parse_changes(changes), "compute.threads": threads})
        write_params(document)
    return folder


def seconds_of(command: list[str], folder: Path) -> float:
    """Run a command to its end; its output goes to a file of the folder."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")
    }
    started = time.monotonic()
    with open(folder / "output.txt", "wb") as output:
        subprocess.run(
            command, cwd=folder, check=True, stdout=output, stderr=output,
            env={**environment, "PATH": path, "DVC_NO_ANALYTICS": "1"},
        )  # fmt: skip
    return time.monotonic() - started


def digests(folder: Path) -> dict[str, dict[str, str]]:
    """Stage -> the digests of its outs."""
    return {
        name: digests_of(entry) for name, entry in stage_entries(folder / "dvc.lock").items() if name != REPLAY_STAGE
    }


def main() -> None:
    """Print the three times, their ratios, and how many stages have the same digests."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="GROUP.NAME=VALUE")
    arguments = parser.parse_args()
    cores = available(CPU)
    with tempfile.TemporaryDirectory() as scratch:
        ways = {
            "dvc repro, 1 thread": (REPRO, 1),
            f"semmae run, 1 thread, {cores} slots": (WALK, 1),
            f"dvc repro, {cores} threads": (REPRO, cores),
        }
        folders, seconds = [], []
        for number, (name, (command, threads)) in enumerate(ways.items()):
            folder = Path(scratch) / str(number)
            folders.append(clone(folder, threads=threads, preset=arguments.preset, changes=arguments.changes))
            seconds.append(seconds_of(command, folder))
            print(
                f"{name:<32} {seconds[-1]:7.1f} s, {seconds[0] / seconds[-1]:.2f} times as fast as the first",
                flush=True,
            )
        one, other = digests(folders[0]), digests(folders[1])
        same = sum(one[name] == other.get(name) for name in one)
        print(f"{same} of {len(one)} stages have the same digests by dvc repro and by the walk")


if __name__ == "__main__":
    main()
