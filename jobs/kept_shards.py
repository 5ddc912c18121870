"""Finished shards of a streaming stage, kept between runs: none is made twice from the same inputs."""

import shutil
from pathlib import Path
from types import TracebackType

from jobs.state import state_folder
from shards.folders import is_intact
from shards.locks import lock


def folder_of(job: str, fingerprint: str) -> Path:
    """Where the finished shards of a job are kept, each in a folder named by its key."""
    return state_folder() / "shards" / job / fingerprint


def why_missing(folder: Path) -> str:
    """Why a shard that is wanted is not kept in `folder`."""
    if any(folder.glob("*/manifest.json")):
        return "the others are new, or hold other images"
    return "no shard is kept of the same code, parameters and models"


class KeptShards:
    """Folders of array shards, each under the key of its input, in a git-ignored folder named by the job's fingerprint.

    The fingerprint covers what all shards depend on, the key what one shard alone depends on. Used as a context manager
    around the whole stage. A run that ends with an error or a kill leaves its finished shards to the next try; one that
    ends well keeps the shards it used, and removes the others and those of jobs that no longer run.

    why_missing: why shards that were wanted are not there, in the words for the user, as it was at the start.

    Outs, and maybe DVC's cache, are hard links to these files: a finished file is never written to again, and one whose
    hash has changed is not used.
    """

    def __init__(self, job: str, fingerprint: str) -> None:
        self.job = job
        self.folder = folder_of(job, fingerprint)
        self.why_missing = why_missing(self.folder)
        self._lock = lock(self.folder, job)
        self._used = {"lock"}

    def place(self, key: str) -> Path:
        """Path of the shard of `key`; it appears whole or not at all."""
        self._used.add(key)
        return self.folder / key

    def has(self, key: str) -> bool:
        """Whether this shard is finished and unchanged, byte for byte."""
        return is_intact(self.place(key))

    def __enter__(self) -> "KeptShards":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            for path in self.folder.iterdir():
                if path.name not in self._used:
                    shutil.rmtree(path)
            for path in self.folder.parent.iterdir():
                if path != self.folder:
                    self._remove_unless_running(path)
        self._lock.close()

    def _remove_unless_running(self, folder: Path) -> None:
        try:
            held = lock(folder, self.job)
        except ValueError:
            return
        shutil.rmtree(folder)
        held.close()
