"""One stage as a supervised child process: in its slot, its lines passed on, ended when it is cancelled or hangs."""

import os
import random
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from pipeline.slots import GPU, Needs, occupy
from pipeline.supervision import SUPERVISOR, end_tree, identity

RAN, CACHED, UNCHANGED, FAILED, CANCELLED, SKIPPED = "ran", "restored", "unchanged", "failed", "cancelled", "skipped"
DONE = (RAN, CACHED, UNCHANGED)
# What DVC says when another DVC holds a lock: the only failure that is tried again.
CONTENTION = (
    "is busy, it is being blocked by",
    "Unable to acquire lock",
    "cannot perform the command because another DVC",
)
ATTEMPTS = 30
LAST_LINES = 30
PROGRESS = re.compile(r"(\d+)/(\d+) images")


@dataclass(frozen=True)
class Outcome:
    """What became of a stage. last_lines: of its output, where it failed."""

    stage: str
    status: str
    seconds: float = 0.0
    device: str = ""
    log: str = ""
    last_lines: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Its outs are there, and those downstream may run."""
        return self.status in DONE


def command_of(stage: str, *, force: bool = False) -> list[str]:
    """What runs one stage and nothing upstream of it."""
    words = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage]
    return [*words, "--force"] if force else words


def execute(
    stage: str,
    *,
    root: Path,
    needs: Needs,
    log: Path,
    on_line: Callable[[str], None],
    cancelled: Event,
    patience: float,
    force: bool = False,
) -> Outcome:
    """Run `stage` of the repository at `root` when its slots are free; its whole output goes to `log`, by line to `on_line`.

    cancelled: when it is set, the process tree is terminated, which lets training write its checkpoint. patience: seconds
    without a line after which it is taken to hang, and is terminated as failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with occupy(needs, is_cancelled=cancelled.is_set) as names:
            device = f"{needs.kind} {','.join(names)}"
            environment = {**os.environ, SUPERVISOR: identity(os.getpid()), "PYTHONUNBUFFERED": "1"}
            if needs.kind == GPU:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(names)
            started = time.monotonic()
            for _ in range(ATTEMPTS):
                child = _Child(command_of(stage, force=force), root, environment, log, on_line)
                status = child.follow(cancelled, patience)
                if status != FAILED or not child.met_a_lock or cancelled.wait(random.uniform(0.2, 2.0)):
                    break
            lines = tuple(child.lines[-LAST_LINES:]) if status == FAILED else ()
            return Outcome(stage, status, time.monotonic() - started, device, str(log), lines)
    except InterruptedError:
        return Outcome(stage, CANCELLED)


class _Child:
    """A run of DVC whose output is followed."""

    def __init__(
        self, command: list[str], root: Path, environment: dict[str, str], log: Path, on_line: Callable[[str], None]
    ) -> None:
        self.lines: list[str] = []
        self.on_line, self.log = on_line, log
        # Not in a session of its own: whoever signals the walk's process group means the stages as well.
        self.process = subprocess.Popen(
            command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )  # fmt: skip

    @property
    def met_a_lock(self) -> bool:
        """Whether DVC gave up because of another DVC."""
        return any(words in line for line in self.lines for words in CONTENTION)

    def follow(self, cancelled: Event, patience: float) -> str:
        """Pass lines on until the process ends; returns the status."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        heard, rest, end = time.monotonic(), b"", ""
        with selectors.DefaultSelector() as selector, open(self.log, "ab") as file:
            selector.register(descriptor, selectors.EVENT_READ)
            while True:
                if selector.select(timeout=0.2):
                    chunk = os.read(descriptor, 65536)
                    if not chunk:
                        break
                    heard = time.monotonic()
                    file.write(chunk)
                    file.flush()
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        self._hear(line.decode(errors="replace").rstrip())
                elif self.process.poll() is not None:
                    break  # a grandchild may hold the pipe open
                if not end and cancelled.is_set():
                    end = CANCELLED
                elif not end and time.monotonic() - heard > patience:
                    end = FAILED
                    self._hear(f"no line in {patience:.0f} s: taken to hang and terminated (watchdog_seconds)")
                if end:
                    end_tree(self.process.pid)
        code = self.process.wait()
        if end:
            return end
        if code:
            return CANCELLED if cancelled.is_set() else FAILED
        if any(line.startswith("Running stage") for line in self.lines):
            return RAN
        return CACHED if any("is cached" in line for line in self.lines) else UNCHANGED

    def _hear(self, line: str) -> None:
        if line:
            self.lines.append(line)
            self.on_line(line)


def progress_of(line: str) -> float | None:
    """Share of a stage that is done, in [0, 1], from a line of `pipeline.stage.Meter`; None for other lines."""
    match = PROGRESS.search(line)
    return int(match[1]) / int(match[2]) if match and int(match[2]) else None
