"""A dvc.lock that cannot be read: DVC writes it in place, so a kill can leave half of it."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from config.params import read_yaml
from jobs.git import git
from jobs.state import STATE_FOLDER
from pipeline.doctor.dvc_locks import holding, is_at_work
from pipeline.doctor.findings import Finding
from shards.files import write_text


def damaged_dvc_lock(tree: Path, *, repair: bool) -> Iterator[Finding]:
    """A damaged dvc.lock. It is moved aside, and the one that git has is put back."""
    path = tree / "dvc.lock"
    if not fault_of(path) or is_at_work(tree):
        return
    with holding(tree) as is_ours:
        # Again under the lock: somebody may have been writing at the first look.
        fault = fault_of(path)
        if not is_ours or not fault:
            return
        done = f"repair moves it into {STATE_FOLDER}"
        if repair:
            aside = tree / STATE_FOLDER / f"dvc.lock.{time.time_ns()}"
            aside.parent.mkdir(exist_ok=True)
            path.rename(aside)
            done = f"moved to {aside}"
            with contextlib.suppress(ValueError):
                write_text(path, git("show", "HEAD:./dvc.lock", folder=tree) + "\n")
                done += ", the committed one put back"
        done = f"{done}; `dvc repro` there then restores all stages from the run cache"
        yield Finding(f"{path}", f"damaged ({fault})", done)


def fault_of(path: Path) -> str:
    """Why DVC would refuse a dvc.lock; empty for a sound or an absent one."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    if not path.is_file():
        return ""
    try:
        document = read_yaml(path)
        # DVC accepts one without stages, and never writes such a one.
        COMPILED_LOCKFILE_SCHEMA({"stages": None, **document} if isinstance(document, dict) else document)
    except (ValueError, Invalid) as error:
        return " ".join(str(error).removeprefix(f"{path}: ").split())[:120]
    return ""
