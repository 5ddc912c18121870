"""The stages in dvc.lock: their outs and dependencies, and whether the outs that are there are those that it records."""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from config.params import read_yaml
from shards.files import md5_of


def stage_entries(lock_file: Path) -> dict[str, Mapping[str, Any]]:
    """The stages of dvc.lock by name; none for an absent file, a ValueError for a damaged one.

    DVC keeps the entries of stages that are gone: of arms and seeds that run no longer, or that the lock of another tree
    brought along. Only those that dvc.yaml and params.yaml beside it make are returned.
    """
    entries, graph, params = all_entries(lock_file), lock_file.with_name("dvc.yaml"), lock_file.with_name("params.yaml")
    if not graph.is_file():
        return {}
    names = set(stage_names(read_yaml(graph)["stages"], read_yaml(params) if params.is_file() else {}))
    return {name: entry for name, entry in entries.items() if name in names}


def all_entries(lock_file: Path) -> dict[str, Mapping[str, Any]]:
    """The same with those of stages that are gone, whose outs may still lie here."""
    if not lock_file.is_file():
        return {}
    document = read_yaml(lock_file)
    if not isinstance(document, dict) or not isinstance(document.get("stages"), dict):
        raise ValueError(f"{lock_file}: damaged; delete it, `dvc repro` restores it from the run cache")
    return document["stages"]


def stage_names(stages: Mapping[str, Any], params: Any) -> Iterator[str]:
    """The names that DVC gives to the `stages` of a dvc.yaml under these parameters: STAGE, or STAGE@VALUE-VALUE of a matrix.

    Differs: DVC's own index takes a second, and a matrix here is of plain values, in lists or as ${PARAMETER}.
    """
    for name, stage in stages.items():
        if "matrix" not in stage:
            yield name
            continue
        lists = [_resolved(values, params) for values in stage["matrix"].values()]
        yield from (f"{name}@{'-'.join(map(str, values))}" for values in product(*lists))


def _resolved(values: Any, params: Any) -> list[Any]:
    if match := re.fullmatch(r"\$\{([\w.]+)\}", str(values)):
        for key in match[1].split("."):
            params = params.get(key) if isinstance(params, Mapping) else None
        return list(params or ())
    return list(values)


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
