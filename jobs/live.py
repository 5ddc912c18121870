"""The rows of a training that runs, in a line file that a follower copies into MLflow (`pipeline.tracking.live`).

A training's file is named by job and fingerprint, as its scratch folder is: who resumes it, in whatever tree, goes on in the
same file. Each try begins with a line of its own, and its end is one. Stages import no MLflow: they start the follower by
its module's name, one for the repository, and start it again where it was killed.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.names import stage_name
from config.params import Runtime
from jobs.record import at_end, end_trainings, note, noted
from jobs.state import main_worktree, state_folder
from jobs.supervision import EXPERIMENT_VARIABLE, SLOT, identity
from shards.locks import lock

if TYPE_CHECKING:  # with torch, which the follower does without
    from jobs.scratch import Scratch

FOLLOWER = "pipeline.tracking.live"
# Set to 0 it switches following off, as `live` in runtime.yaml does.
SWITCH = "SEMMAE_LIVE"
# How often a stage looks whether it still has a follower.
LOOK_SECONDS = 15.0
# What a follower must not inherit: it belongs to no stage, walk or flow.
OTHERS = ("DVC_", "PREFECT_", "SEMMAE_")
RUNNING = "RUNNING"
# What the first line of a try has, besides its time.
BEGIN = {"process", "host", "stage", "tree", "facts", "experiment"}


class Lines:
    """The line file of a training in this process. Nothing here raises: to be followed must never end a training."""

    def __init__(self, path: Path, label: str) -> None:
        self.path, self.label = path, label
        self.last = max((row["step"] for _, row in rows_of(path)), default=0)
        self._ended = threading.Event()
        # A process that was killed may have left half a line.
        self._begin, self._is_lost = "\n", False
        facts = {"slot": os.environ.get(SLOT, ""), **noted()}
        self._write(
            process=identity(os.getpid()), host=socket.gethostname(), stage=stage_name(), tree=os.getcwd(), facts=facts,
            experiment=os.environ.get(EXPERIMENT_VARIABLE) or os.environ.get("DVC_EXP_NAME", ""),
        )  # fmt: skip
        threading.Thread(target=self._keep_followed, daemon=True, name="live").start()

    def extend(self, history: Sequence[Mapping[str, float]]) -> None:
        """Append the rows of a history whose step the file does not have."""
        for row in history:
            if row["step"] > self.last and self._write(row=row):
                self.last = int(row["step"])

    def end(self, status: str) -> None:
        """Append how the training ended."""
        self._ended.set()
        self._write(end=status)

    def _write(self, **line: Any) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(f"{self._begin}{json.dumps({'time': time.time(), **line})}\n")
        except OSError as error:
            if not self._is_lost:
                print(f"warning: {self.label}: MLflow will not show all of it before its end: {error}", flush=True)
            self._begin, self._is_lost = "\n", True
            return False
        self._begin = ""
        return True

    def _keep_followed(self) -> None:
        is_over = False
        while not is_over:
            try:
                if not is_followed():
                    _start_follower()
            except OSError as error:
                print(f"warning: {self.label}: MLflow does not show it before its end: {error}", flush=True)
                return
            is_over = self._ended.wait(LOOK_SECONDS)


def follow(scratch: "Scratch", runtime: Runtime, label: str) -> Lines | None:
    """The line file of the training that `scratch` is of; None for one that nobody follows.

    That is one outside of DVC, whose run would be of no stage, all processes but the first of several, and one where
    following is switched off.
    """
    if not runtime.live or os.environ.get(SWITCH) == "0" or "DVC_STAGE" not in os.environ or scratch.processes.rank:
        return None
    end_trainings("FINISHED")
    name = f"{scratch.folder.parent.name}.{scratch.folder.name}"
    note(live=name)
    lines = Lines(line_file(name), label)
    at_end.append(lines.end)
    return lines


def folder() -> Path:
    """The folder of line files, the note of each on its run in MLflow, and the follower's lock."""
    return state_folder() / "live"


def line_file(name: str) -> Path:
    """The line file of the training that a record calls `name`; its note has the suffix `.json`."""
    return folder() / f"{name}.jsonl"


def lines_of(path: Path, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset behind it, line) of the whole lines of a file from an offset on, without damaged ones."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            content = file.read()
    except OSError:
        return
    for line in content.splitlines(keepends=True):
        offset += len(line)
        if line.endswith(b"\n"):
            with contextlib.suppress(ValueError):
                if _is_sound(document := json.loads(line)):
                    yield offset, document


def _is_sound(line: Any) -> bool:
    """Whether a line is the beginning of a try, a row, or an end."""
    if not isinstance(line, dict) or not isinstance(line.get("time"), float):
        return False
    if isinstance(row := line.get("row"), dict):
        return "step" in row and all(isinstance(value, int | float) for value in row.values())
    return line.keys() >= BEGIN or line.get("end") in ("FINISHED", "FAILED", "KILLED")


def rows_of(path: Path) -> Iterator[tuple[float, dict[str, float]]]:
    """(time, row) of the rows in a line file."""
    yield from ((line["time"], line["row"]) for _, line in lines_of(path) if "row" in line)


def forget(path: Path) -> None:
    """Remove a line file with its note."""
    path.unlink(missing_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)


def is_followed() -> bool:
    """Whether a follower runs."""
    try:
        lock(folder(), "live").close()
    except ValueError:
        return True
    return False


def _start_follower() -> None:
    log = state_folder() / "logs" / "live.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
    with open(log, "ab") as output:
        # It leaves this process at once: a walk ends all that it finds below a stage.
        subprocess.run(
            [sys.executable, "-m", FOLLOWER], cwd=main_worktree(), env=environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True, check=False,
        )  # fmt: skip
