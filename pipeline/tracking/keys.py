"""The identity of a stage's result and of the whole state in dvc.lock: a replay finds its runs by these."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.dvc_lock import stage_entries
from jobs.supervision import EXPERIMENT_VARIABLE

# The stage that replays: its own entry in dvc.lock is written after the replay.
REPLAY_STAGE = "track_runs"
# Its entry also changes with comments; what changes results is in the entries of the stages that read its outs.
DIGEST_STAGE = "digest_code"
# The stage that writes report/.
COMPARISON_STAGE = "compare"


@dataclass(frozen=True)
class State:
    """The stages in dvc.lock, the key of each one's result, and the key of all of them together."""

    entries: Mapping[str, Mapping[str, Any]]
    keys: Mapping[str, str]
    key: str

    def without(self, names: Collection[str]) -> "State":
        """The state of the other stages alone."""
        return _state({name: entry for name, entry in self.entries.items() if name not in names})


def state_of(lock_file: str | Path = "dvc.lock") -> State:
    """The state that dvc.lock records, as the experiment of this environment: results, and what determines them."""
    return _state(stage_entries(Path(lock_file))).without((REPLAY_STAGE, DIGEST_STAGE))


def _state(entries: Mapping[str, Mapping[str, Any]]) -> State:
    keys = {name: key_of(name, entry) for name, entry in entries.items()}
    return State(entries, keys, key_of(os.environ.get(EXPERIMENT_VARIABLE, ""), keys))


def key_of(name: str, entry: Mapping[str, Any]) -> str:
    """A digest of a stage's name, parameters, inputs and outs as DVC recorded them."""
    return hashlib.sha256(json.dumps([name, entry], sort_keys=True, default=str).encode()).hexdigest()[:32]
