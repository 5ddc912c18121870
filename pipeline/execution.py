"""One stage as a supervised child process: in its slot, its lines passed on, ended when it is cancelled or hangs."""

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from config.redaction import redacted, secret_values
from jobs.supervision import SLOT, SUPERVISOR, end_command, identity
from pipeline.slots import GPU, Needs, alone, occupy

RAN, CACHED, UNCHANGED, FAILED, CANCELLED, SKIPPED = "ran", "restored", "unchanged", "failed", "cancelled", "skipped"
DONE = (RAN, CACHED, UNCHANGED)
# What DVC says when another DVC holds a lock: the only failure that is tried again.
CONTENTION = ("is busy, it is being blocked by", "Unable to acquire lock")
ATTEMPTS = 30
LOOK_SECONDS = 0.1
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
    job: str,
    log: Path,
    on_line: Callable[[str], None],
    cancelled: Event,
    patience: float,
    force: bool = False,
) -> Outcome:
    """Run `stage` of the repository at `root` when its slots are free; its whole output goes to `log`, by line to `on_line`.

    job: names what it computes, so that another walk does not compute the same meanwhile. cancelled: when it is set, the
    stage is terminated, which lets training write its checkpoint. patience: seconds without a line after which it is taken
    to hang, and is terminated as failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)

    def tell() -> None:
        on_line("waits for another walk that runs this very job")

    try:
        with (
            alone(job, is_cancelled=cancelled.is_set, on_wait=tell),
            occupy(needs, is_cancelled=cancelled.is_set) as names,
        ):
            device = f"{needs.kind} {','.join(names)}"
            environment = {
                **os.environ,
                SUPERVISOR: identity(os.getpid()),
                SLOT: device,
                "PYTHONUNBUFFERED": "1",
                # dvc.yaml says `python`, which is the one that this runs in, also where nobody activated its environment.
                "PATH": os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath))),
            }
            if needs.kind == GPU:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(names)
            started, has_run = time.monotonic(), False
            for _ in range(ATTEMPTS):
                child = _Child(command_of(stage, force=force), root, environment, log, on_line)
                status = child.follow(cancelled, patience)
                has_run = has_run or child.has_run
                if status != FAILED or not child.met_a_lock:
                    break
                if cancelled.wait(random.uniform(0.2, 2.0)):
                    status = CANCELLED
                    break
            if status in DONE and has_run:
                # DVC may meet a lock when the stage has run and its outs are in the cache; it then restores them.
                status = RAN
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
        self.secrets = secret_values()
        self.on_line = on_line
        # Through a file, not a pipe: a stage whose walk was killed must not die of its next line before it has saved.
        with open(log, "ab") as output:
            self.log = open(log, "rb")
            self.log.seek(0, os.SEEK_END)
            # A group of its own: an interrupt from the terminal is for the walk, which terminates its stages in order,
            # while DVC turns a deaf ear to it and a training that gets it directly loses its last steps.
            self.process = subprocess.Popen(
                command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                process_group=0,
            )  # fmt: skip

    @property
    def met_a_lock(self) -> bool:
        """Whether DVC gave up because of another DVC, by its last word; what a stage says of locks is not meant."""
        verdict = next((line for line in reversed(self.lines) if line.startswith("ERROR: ")), "")
        return any(words in verdict for words in CONTENTION) and "failed to run:" not in verdict

    @property
    def has_run(self) -> bool:
        """Whether DVC started the stage's command."""
        return any(line.startswith("Running stage") for line in self.lines)

    def follow(self, cancelled: Event, patience: float) -> str:
        """Pass lines on until the process ends; returns the status."""
        ender = threading.Thread(target=end_command, args=(self.process.pid,), daemon=True)
        try:
            end = self._read(cancelled, patience, ender)
        except BaseException:
            # Whoever hears the lines failed: nobody would answer for the process.
            end_command(self.process.pid)
            raise
        finally:
            if ender.ident is not None:
                ender.join()
            code = self.process.wait()
            self.log.close()
        if code:
            return end or (CANCELLED if cancelled.is_set() else FAILED)
        if self.has_run:
            return RAN
        return CACHED if any("is cached" in line for line in self.lines) else UNCHANGED

    def _read(self, cancelled: Event, patience: float, ender: threading.Thread) -> str:
        """Hear the process to its end, and start `ender` where there is a reason to; returns the status that follows."""
        heard, rest, end = time.monotonic(), b"", ""
        while True:
            # Asked before the file is read: what it said last is there by then.
            is_over = self.process.poll() is not None
            chunk = self.log.read()
            if chunk:
                heard = time.monotonic()
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    self._hear(line)
            elif is_over:
                break
            else:
                time.sleep(LOOK_SECONDS)
            if not end and cancelled.is_set():
                end = CANCELLED
            elif not end and time.monotonic() - heard > patience:
                end = FAILED
                self._hear(f"no line in {patience:.0f} s: taken to hang and terminated (watchdog_seconds)".encode())
            if end and ender.ident is None:
                ender.start()
        self._hear(rest)
        return end

    def _hear(self, line: bytes) -> None:
        text = redacted(line.decode(errors="replace").rstrip(), self.secrets)
        if text:
            self.lines.append(text)
            self.on_line(text)


def progress_of(line: str) -> float | None:
    """Share of a stage that is done, in [0, 1], from a line of `jobs.progress.Meter`; None for other lines."""
    match = PROGRESS.search(line)
    return int(match[1]) / int(match[2]) if match and int(match[2]) else None
