"""Finished shards of a streaming stage, kept between runs: what was made once from the same inputs is not made again."""

import shutil
from pathlib import Path
from types import TracebackType

from jobs.state import state_folder
from shards.folders import is_intact
from shards.locks import lock


class KeptShards:
    """Folders of array shards, each under the key of its input, in a git-ignored folder named by the job's fingerprint.

    The fingerprint covers all that every shard depends on, the key what this one alone depends on. Used as a context
    manager around the whole stage. A run that ends with an error or a kill leaves all it has finished to the next try;
    one that ends well leaves the shards it used, and removes the others and those of jobs that nobody runs any more.

    Outs are hard links to these files, and so may DVC's cache be: none is ever written to after it was finished, and
    one that something else has changed is not used again, which its hash tells.
    """

    def __init__(self, job: str, fingerprint: str) -> None:
        self.job = job
        self.folder = state_folder() / "shards" / job / fingerprint
        self._lock = lock(self.folder, job)
        self._used = {"lock"}

    def place(self, key: str) -> Path:
        """Where the shard of `key` stands, or is to be written: whole or not at all."""
        self._used.add(key)
        return self.folder / key

    def has(self, key: str) -> bool:
        """Whether an earlier run has finished this shard, and every byte of it is as it was then."""
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
