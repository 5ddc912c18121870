"""Resume state: a git-ignored folder a job, named by the job's fingerprint, removed when the job's outs are written."""

import io
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from jobs.cluster.distributed import ALONE, Processes
from jobs.state import state_folder
from shards.files import link_or_copy
from shards.locks import lock
from shards.seals import read_sealed_bytes, sealed_file

# Of the checkpoint's format; a checkpoint of another version is not resumed from.
VERSION = 1
# How long NFS keeps the lock of a machine that does not answer: 90 s, with a margin.
LEASE_SECONDS = 100.0


class Scratch:
    """The scratch folder of one job, held by one process at a time.

    Used as a context manager around the whole stage: leaving it without an error removes the folder, since the outs are
    written then; leaving it with an error or a kill keeps it for the next try. The kernel releases the lock of a killed
    process. Raises ValueError when another process works on the same job. Of `processes` that work together the first
    alone touches the folder; all raise ValueError where one has another fingerprint, as on a machine with other images.
    """

    def __init__(self, job: str, fingerprint: str, processes: Processes = ALONE) -> None:
        self.folder, self.processes = state_folder() / "scratch" / job / fingerprint, processes
        if not processes.agree(fingerprint.encode()):
            raise ValueError(
                f"{job}: the processes differ in job, code, parameters, inputs or library versions; bring all machines to "
                "the same commit and data, and start the same job on each"
            )
        # A file server notices late that the machine of an earlier rank 0 is gone.
        seconds = LEASE_SECONDS if processes.nodes > 1 else 0.0
        self._lock = None if processes.rank else lock(self.folder, job, seconds=seconds)

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint whole or not at all, and keep the one before."""
        if self._lock is None:
            return
        if self.checkpoint.is_file():
            self.previous.unlink(missing_ok=True)
            link_or_copy(self.checkpoint, self.previous)
        with sealed_file(self.checkpoint) as file:
            torch.save({"version": VERSION, **state}, file)

    def load(self) -> dict[str, Any] | None:
        """The checkpoint of an earlier try, or None. Only tensors and plain values are read, never code.

        A damaged one is named and removed, and the one before takes its place. One of another version is named and not
        used: training starts anew.
        """
        # Sent as bytes: the other processes may be on machines that do not see the folder.
        content = self.processes.from_first(None if self._lock is None else self._sound())
        if content is None:
            return None
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        version = state.pop("version", None)
        if version != VERSION:
            print(f"{self.checkpoint}: got version {version}, expected {VERSION}; training starts anew", flush=True)
            return None
        return state

    def _sound(self) -> bytes | None:
        for path in (self.checkpoint, self.previous):
            try:
                return read_sealed_bytes(path)
            except FileNotFoundError:
                continue
            except ValueError as error:
                print(f"{error}; it is removed, and training resumes from the one before, or starts anew", flush=True)
                path.unlink()
        return None

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint."""
        return self.folder / "checkpoint.pt"

    @property
    def previous(self) -> Path:
        """Path of the one before it."""
        return self.folder / "previous.pt"

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is None:
            return
        if kind is None:
            shutil.rmtree(self.folder)
            if not os.listdir(self.folder.parent):
                self.folder.parent.rmdir()
        self._lock.close()
