"""Checkpoint files of teachers: official ones fetched, every one pinned in params.yaml by its sha256."""

import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.names import did_you_mean
from jobs.progress import Meter
from shards.files import sha256_of, whole_file

IBOT = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot"
MIB = 2**20
# Of a checkpoint that is not trained here, kNN is but a check that it was loaded well.
KNN_IMAGES = 500


@dataclass(frozen=True)
class Official:
    """A published checkpoint: address, timm architecture that its weights fit, and the input it was trained with."""

    url: str
    architecture: str
    image_size: int


# Source: the table of pretrained models in the README of bytedance/ibot. No checksum is published there: the first
# download's is pinned, and every later run refuses another file.
OFFICIAL = {
    "ibot_vits16": Official(f"{IBOT}/vits_16/checkpoint_teacher.pth", "vit_small_patch16_224", 224),
    "ibot_vitb16": Official(f"{IBOT}/vitb_16/checkpoint_teacher.pth", "vit_base_patch16_224", 224),
    "ibot_vitl16": Official(f"{IBOT}/vitl_16/checkpoint_teacher.pth", "vit_large_patch16_224", 224),
}


def fetch(name: str, folder: str | Path = "weights") -> Path:
    """The official checkpoint NAME in `folder`, fetched unless it is there; it appears whole.

    Raises ValueError for an unknown name and a download that fails or ends early.
    """
    if name not in OFFICIAL:
        near = did_you_mean(name, OFFICIAL)
        raise ValueError(
            f"teacher {name}: no such file, and no official checkpoint{near}; there are {', '.join(OFFICIAL)}"
        )
    path = Path(folder) / f"{name}.pth"
    if path.is_file():
        return path
    url = OFFICIAL[name].url
    try:
        with urllib.request.urlopen(url, timeout=60) as response, whole_file(path) as file:
            expected = int(response.headers.get("Content-Length") or 0)
            with Meter(expected // MIB, label=f"teacher {name}", unit="MiB") as meter:
                while chunk := response.read(MIB):
                    file.write(chunk)
                    meter.advance(file.tell() // MIB - meter.done)
            if expected and file.tell() != expected:
                raise OSError(f"it ended after {file.tell()} of {expected} bytes")
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"teacher {name}: {url}: {reason}; check the network and try again") from None
    return path


def pin(document: Any, path: Path, *, architecture: str, image_size: int) -> str:
    """Make a checkpoint file the teacher of a parameter document; returns its sha256."""
    digest = sha256_of(path)
    document["teacher"].update(
        source=str(path), sha256=digest, architecture=architecture, image_size=image_size, knn_images=KNN_IMAGES
    )
    return digest
