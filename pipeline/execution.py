"""One stage as a supervised child process: waits for its slots, passes its lines on, ends when cancelled or silent."""

import os
import re
import shlex
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
from pipeline import reproducing
from pipeline.slots import GPU, Needs, alone, occupy

RAN, CACHED, UNCHANGED, FAILED, CANCELLED, SKIPPED = "ran", "restored", "unchanged", "failed", "cancelled", "skipped"
DONE = (RAN, CACHED, UNCHANGED)
STATUS_OF_CODE = {reproducing.RAN: RAN, reproducing.RESTORED: CACHED, reproducing.UNCHANGED: UNCHANGED}
LOOK_SECONDS = 0.1
LAST_LINES = 30
PROGRESS = re.compile(r": (\d+)/(\d+) \w+, ")


@dataclass(frozen=True)
class Outcome:
    """How a stage ended. last_lines: the end of its output, if it failed."""

    stage: str
    status: str
    seconds: float = 0.0
    device: str = ""
    log: str = ""
    last_lines: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Its outs are there, and stages downstream may run."""
        return self.status in DONE


def command_of(stage: str, *, force: bool = False) -> list[str]:
    """The command that runs one stage and nothing upstream of it."""
    # -P: modules come from the environment, and not from the folder of this file.
    return [sys.executable, "-P", reproducing.__file__, stage, *(["--force"] if force else [])]


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
    on_start: Callable[[str], None] = lambda device: None,
    force: bool = False,
) -> Outcome:
    """Run `stage` of the repository at `root` once its slots are free.

    job: names the result, so that two walks do not compute the same one at once. log: file for the output; on_line gets each
    line of it. on_start: gets the device once the slots are held. cancelled: set it to terminate the stage; training then
    writes its checkpoint. patience: seconds without a line after which the stage counts as hung and is terminated as failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            alone(
                job,
                is_cancelled=cancelled.is_set,
                on_wait=lambda: on_line("waits: another walk runs this very job"),
            ),
            occupy(needs, is_cancelled=cancelled.is_set) as names,
        ):
            device = f"{needs.kind} {','.join(names)}"
            environment = {
                **os.environ,
                SUPERVISOR: identity(os.getpid()),
                SLOT: device,
                "PYTHONUNBUFFERED": "1",
                # Else an experiment would run the installed code, and not its own.
                "PYTHONSAFEPATH": "",
                # dvc.yaml says `python`: this one, also where nobody activated its environment.
                "PATH": os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath))),
            }
            if needs.kind == GPU:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(names)
            on_start(device)
            started = time.monotonic()
            child = _Child(command_of(stage, force=force), root, environment, log, on_line)
            status = child.follow(cancelled, patience)
            lines = tuple(child.lines[-LAST_LINES:]) if status == FAILED else ()
            return Outcome(stage, status, time.monotonic() - started, device, str(log), lines)
    except InterruptedError:
        return Outcome(stage, CANCELLED)


class _Child:
    """A child process and the lines of its output so far."""

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
            # A group of its own: an interrupt from the terminal is for the walk, which terminates its stages in order.
            # DVC ignores an interrupt while a stage runs, and a training that gets it directly loses its last steps.
            self.process = subprocess.Popen(
                command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                process_group=0,
            )  # fmt: skip

    def follow(self, cancelled: Event, patience: float) -> str:
        """Pass lines on until the process ends; returns the status."""
        ender = threading.Thread(target=end_command, args=(self.process.pid,), daemon=True)
        try:
            end = self._read(cancelled, patience, ender)
        except BaseException:
            # The caller's on_line failed: nobody else would end the process.
            end_command(self.process.pid)
            raise
        finally:
            if ender.ident is not None:
                ender.join()
            code = self.process.wait()
            self.log.close()
        return STATUS_OF_CODE.get(code) or end or (CANCELLED if cancelled.is_set() else FAILED)

    def _read(self, cancelled: Event, patience: float, ender: threading.Thread) -> str:
        """Read until the process ends, and start `ender` if there is a reason to end it; returns the status for that reason."""
        last, rest, end = time.monotonic(), b"", ""
        while True:
            # Before the file is read: the last lines of a process that is over are in it.
            is_over = self.process.poll() is not None
            chunk = self.log.read()
            if chunk:
                last = time.monotonic()
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    self._pass_on(line)
            elif is_over:
                break
            else:
                time.sleep(LOOK_SECONDS)
            if not end and cancelled.is_set():
                end = CANCELLED
            elif not end and time.monotonic() - last > patience:
                end = FAILED
                self._pass_on(f"no line in {patience:.0f} s: taken to hang and terminated (watchdog_seconds)".encode())
            if end and ender.ident is None:
                ender.start()
        self._pass_on(rest)
        return end

    def _pass_on(self, line: bytes) -> None:
        text = redacted(line.decode(errors="replace").rstrip(), self.secrets)
        if text:
            self.lines.append(text)
            self.on_line(text)


def repeat(stage: str, root: Path) -> str:
    """The command with which a person runs one stage again."""
    return f"cd {shlex.quote(str(root))} && dvc --wait-for-lock repro --single-item {shlex.quote(stage)}"


def progress_of(line: str) -> float | None:
    """Share of a stage that is done, in [0, 1], from a line of `jobs.progress.Meter`; None for other lines."""
    match = PROGRESS.search(line)
    return int(match[1]) / int(match[2]) if match and int(match[2]) else None
