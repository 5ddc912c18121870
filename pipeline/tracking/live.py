"""Copy the rows of running trainings into RUNNING runs of MLflow: `python -m pipeline.tracking.live`, one for the repository.

A training stage starts it (`jobs.live`). It reads the line files that trainings append to, and ends itself when none has run
for a while. Rows keep the time at which they were logged: by that a follower that started anew, or lost an answer, knows the
points that MLflow has, so that nothing is lost and nothing is there twice. At the end the run gets its status; the replay
completes it.
"""

import contextlib
import dataclasses
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil

from config.redaction import one_line, redacted
from jobs import live
from jobs.live import RUNNING
from jobs.notes import read_note
from jobs.supervision import is_alive
from pipeline.tracking.client import KILLED, be_quiet, client, tracking_uri
from pipeline.tracking.stage_runs import SYSTEM, Point, lacking, log_points, training_points
from pipeline.tracking.tags import LIVE_TAG, WRITER_TAG, Tagged, origin_here
from pipeline.tracking.writer import Writer, milliseconds, note_run
from shards.locks import lock

# A shorter stage has no run before its end.
START_SECONDS = 5.0
POLL_SECONDS, SAMPLE_SECONDS, IDLE_SECONDS = 4.0, 10.0, 30.0
# A process of another machine that writes no row for so long counts as gone.
SILENT_SECONDS = 6 * 3600.0


class Training:
    """What one line file holds, and what MLflow has of it.

    begin: the first line of the last try. points: those that MLflow lacks, each with its time in milliseconds.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0
        noted = _noted(path)
        self.run, self.sent, self.told = noted.get("run", ""), noted.get("sent", 0), noted.get("told", "")
        self.begin: dict[str, Any] = {}
        self.started = self.changed = 0.0
        self.status = KILLED
        self.points: list[tuple[Point, int]] = []
        # Whether it is known what MLflow has of the points.
        self._is_sure = False
        self._sampled, self._cpu_seconds = 0.0, 0.0

    def look(self) -> None:
        """Read what is new, see whether the process lives, and measure it."""
        self._read()
        if self.status == RUNNING and self._is_gone():
            self._read()  # what it wrote last
            if self.status == RUNNING:
                self.status, self.changed = KILLED, time.time()
        if self.status == RUNNING and time.monotonic() - self._sampled >= SAMPLE_SECONDS:
            self._sample()

    def _read(self) -> None:
        for offset, line in live.lines_of(self.path, self.offset):
            self.offset = offset
            if "process" in line:
                self.begin, self.status, self.changed = line, RUNNING, line["time"]
                self.started = self.started or line["time"]
            elif "row" in line and offset > self.sent:
                self.points += [(point, milliseconds(line["time"])) for point in training_points(line["row"])]
            elif "end" in line:
                self.status, self.changed = line["end"], line["time"]

    def _is_gone(self) -> bool:
        if self.begin["host"] != socket.gethostname():
            return time.time() - self.path.stat().st_mtime > SILENT_SECONDS
        return not is_alive(self.begin["process"])

    def _sample(self) -> None:
        """CPU time of the process and all below it, in % of a core, and their resident memory."""
        elapsed, self._sampled = time.monotonic() - self._sampled, time.monotonic()
        seconds = memory = 0.0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(int(self.begin["process"].partition(":")[0]))
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    seconds, memory = seconds + sum(one.cpu_times()[:4]), memory + one.memory_info().rss / 2**20
        spent, self._cpu_seconds = seconds - self._cpu_seconds, seconds
        if memory and spent < seconds:  # from the second sample on
            values = {"cpu_percent": max(0.0, 100 * spent / elapsed), "rss_mib": memory}
            step, moment = int(time.time() - self.started), milliseconds(time.time())
            self.points += [(Point(f"{SYSTEM}{name}", value, step), moment) for name, value in values.items()]

    @property
    def is_due(self) -> bool:
        """Whether MLflow lacks something; a training that ends within `START_SECONDS` gets no run before the replay."""
        if not self.begin or (not self.run and (self.status != RUNNING or time.time() - self.started < START_SECONDS)):
            return False
        return bool(self.points) or self.told != self._state

    @property
    def _state(self) -> str:
        return f"{self.status} {self.begin.get('process', '')}"

    def send(self, writer: Writer) -> None:
        """Bring the run to what the line file says."""
        if not self.path.is_file():
            return  # the replay has completed it
        run = writer.training_run(self.path)
        if not run and self.run and self.told:
            self.points, self.told = [], self._state  # somebody deleted it while it ran
            return
        writer_tags = {WRITER_TAG: f"{self.begin['host']}/{self.begin['process']}", LIVE_TAG: self.path.stem}
        if not run:
            run = self._start(writer)
        self.run = run
        if not self.told.endswith(self.begin["process"]):
            writer.retag(run, writer_tags)
        if not self._is_sure:
            self.points = lacking(writer.client, run, self.points)
        self._is_sure = False
        log_points(writer.client, run, self.points)
        self._is_sure = True
        if self.told != self._state:
            if self.status == RUNNING:
                writer.client.update_run(run, status=RUNNING)
            else:
                writer.client.set_terminated(run, self.status, milliseconds(self.changed))
        self.points, self.sent, self.told = [], self.offset, self._state
        note_run(self.path, run, sent=self.sent, told=self.told)

    def _start(self, writer: Writer) -> str:
        with contextlib.chdir(self.begin["tree"]):
            origin = dataclasses.replace(origin_here(), experiment=self.begin["experiment"])
            run = writer.start(Tagged(origin, self.begin["stage"], record=self.begin["facts"]), self.started)
        note_run(self.path, run)
        return run


class Follower:
    """The trainings whose line files are there."""

    def __init__(self) -> None:
        self.trainings: dict[Path, Training] = {}
        self._is_lost = False

    def look(self) -> bool:
        """Read all line files; returns whether a training runs."""
        paths = list(live.folder().glob("*.jsonl"))
        self.trainings = {path: self.trainings.get(path) or Training(path) for path in paths}
        for training in self.trainings.values():
            training.look()
        return any(training.status == RUNNING for training in self.trainings.values())

    def send(self) -> None:
        """Bring all runs up to date."""
        due = [training for training in self.trainings.values() if training.is_due]
        if due:
            with client() as mlflow_client:
                writer = Writer(mlflow_client)
                for training in due:
                    training.send(writer)

    def run(self) -> None:
        """Follow until no training has run for `IDLE_SECONDS`. A lost server is one line; the next pass tries again."""
        busy = time.monotonic()
        while time.monotonic() - busy < IDLE_SECONDS:
            if self.look():
                busy = time.monotonic()
            try:
                self.send()
                self._is_lost = False
            except Exception as error:
                if not self._is_lost:
                    moment, where = time.strftime("%Y-%m-%d %H:%M:%S"), redacted(tracking_uri())
                    print(f"{moment} warning: {where}: {one_line(error)[:300]}; tries again", flush=True)
                self._is_lost = True
            time.sleep(POLL_SECONDS)


def lost_trainings(end: bool) -> list[str]:
    """Names and ids of the runs that say RUNNING although neither their training nor a follower is there.

    end: bring them to what their line files say; one without says KILLED.
    """
    lost = _lost()
    if end and lost:
        with contextlib.suppress(ValueError), lock(live.folder(), "live"):
            follower = Follower()
            follower.look()
            follower.send()
        _lost(end=True)
    return lost


def _lost(*, end: bool = False) -> list[str]:
    with client() as mlflow_client:
        runs = Writer(mlflow_client).lost_trainings()
        for run in runs if end else ():
            mlflow_client.set_terminated(run.info.run_id, KILLED)
        return [f"{run.info.run_name} ({run.info.run_id})" for run in runs]


def _noted(path: Path) -> dict[str, Any]:
    """The note on a line file; a damaged one is removed, and the training gets a run of its own anew."""
    note = path.with_suffix(".json")
    try:
        return read_note(note)
    except ValueError as error:
        print(f"{error}; removed", flush=True)
        note.unlink(missing_ok=True)
        return {}


def main() -> None:
    """Leave the process that started this one, and follow, unless another follower does."""
    if os.fork():
        os._exit(0)
    # A training asks for the lock at moments, to see whether it is held.
    with contextlib.suppress(ValueError), lock(live.folder(), "live", seconds=1.0):
        be_quiet()
        # It takes seconds, in which the first training is too young for a run anyway.
        import mlflow  # noqa: F401

        Follower().run()


if __name__ == "__main__":
    main()
