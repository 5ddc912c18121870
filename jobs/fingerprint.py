"""The identity of a job: everything that determines its result, in one hash."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from config.groups import ComputeParams
from jobs.code import code_digests
from shards.files import sha256_of

LIBRARIES = ("torch", "timm", "numpy", "pillow")
# How a batch is shared among processes and cut, which changes the last bits alone.
SHARING = {"world_size", "micro_batch"}


def digest_of(path: str | Path) -> str:
    """SHA-256 over a file, or over the files of a folder by name.

    A folder that has a manifest.json stands for itself by that file, which names the hash of every shard: so that the
    identity of a large data set costs one small read.
    """
    path = Path(path)
    if path.is_file():
        return sha256_of(path)
    if not path.is_dir():
        raise ValueError(f"{path}: not found; run the stage that makes it (dvc repro)")
    manifest = path / "manifest.json"
    if manifest.is_file():
        return sha256_of(manifest)
    listing = [
        [file.relative_to(path).as_posix(), sha256_of(file)] for file in sorted(path.rglob("*")) if file.is_file()
    ]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def fingerprint(module: str, *, params: Mapping[str, Any], compute: ComputeParams, inputs: Iterable[str | Path]) -> str:
    """32 hexadecimal digits over the code that determines the result, parameters, inputs and library versions of a job.

    Resume state is kept under this name: a job with any other code, parameter or input cannot find it. `SHARING` is left
    out: a run that lost a machine goes on with the others, to the bits of an unbroken run only with as many processes
    as before, and no other stage starts anew for it.
    """
    parts = {
        "module": module,
        "code": code_digests(module),
        "params": {**params, "compute": compute.model_dump(exclude=SHARING)},
        "inputs": {str(path): digest_of(path) for path in inputs},
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
