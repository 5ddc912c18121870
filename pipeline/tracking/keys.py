"""The identity of a stage's result and of the whole state in dvc.lock: a replay finds its runs by these."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.dvc_lock import stage_entries

# The stage that replays: its own entry in dvc.lock is written after the replay.
REPLAY_STAGE = "track_runs"
# Its entry also changes with comments; what changes results is in the entries of the stages that read its outs.
DIGEST_STAGE = "digest_code"
EXPERIMENT_VARIABLE = "SEMMAE_EXPERIMENT"


@dataclass(frozen=True)
class State:
    """The stages in dvc.lock, the key of each one's result, and the key of all of them together."""

    entries: Mapping[str, Mapping[str, Any]]
    keys: Mapping[str, str]
    key: str


def state_of(lock_file: str | Path = "dvc.lock") -> State:
    """The state that dvc.lock records, as the experiment of this environment: results, and what determines them."""
    left_out = (REPLAY_STAGE, DIGEST_STAGE)
    entries = {name: entry for name, entry in stage_entries(Path(lock_file)).items() if name not in left_out}
    keys = {name: key_of(name, entry) for name, entry in entries.items()}
    return State(entries, keys, key_of(os.environ.get(EXPERIMENT_VARIABLE, ""), keys))


def key_of(name: str, entry: Mapping[str, Any]) -> str:
    """A digest of a stage's name, parameters, inputs and outs as DVC recorded them."""
    return hashlib.sha256(json.dumps([name, entry], sort_keys=True, default=str).encode()).hexdigest()[:32]
