"""The stages in dvc.lock: their outs and dependencies, and whether the outs that are there are those that it records."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config.params import read_yaml
from shards.files import md5_of


def stage_entries(lock_file: Path) -> dict[str, Mapping[str, Any]]:
    """The stages of dvc.lock by name; none for an absent file, a ValueError for a damaged one."""
    if not lock_file.is_file():
        return {}
    document = read_yaml(lock_file)
    if not isinstance(document, dict) or not isinstance(document.get("stages"), dict):
        raise ValueError(f"{lock_file}: damaged; delete it, `dvc repro` restores it from the run cache")
    return document["stages"]


def other_outs(entry: Mapping[str, Any]) -> list[Path]:
    """The single files among the outs of a stage that are there and differ from what dvc.lock records."""
    files = {Path(name): digest for name, digest in digests_of(entry).items() if not digest.endswith(".dir")}
    return [path for path, digest in files.items() if path.exists() and not (path.is_file() and md5_of(path) == digest)]


def digests_of(entry: Mapping[str, Any]) -> dict[str, str]:
    """Path -> MD5 of the outs of a stage, as dvc.lock has them."""
    return {out["path"]: out["md5"] for out in entry.get("outs", []) if "md5" in out}


def is_code(path: str) -> bool:
    """Whether a path of dvc.lock is code and not data: of `digest_code`, a package, or a module as in older locks."""
    return Path(path).parts[:1] == ("code",) or path.endswith(".py") or (Path(path) / "__init__.py").is_file()
