"""Writing a folder of image shards; see `shards.image_shards` for what it holds."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shards.shard_writer import ENCODED, ShardWriter


class ImageShardWriter(ShardWriter):
    """Writes a folder of image shards."""

    def __init__(self, folder: str | Path, *, classes: list[str], shard_bytes: int, store: str = "") -> None:
        super().__init__(folder, image_schema(classes), shard_bytes=shard_bytes, store=store)
        self.classes = classes

    def add(self, split: str, *, image_id: int, label: int, sha256: bytes, image: bytes, path: str) -> None:
        """Append one encoded image; label: -1 for an image without one. All rows of a split must follow each other."""
        assert -1 <= label < len(self.classes), label
        row = {"image": {"bytes": image, "path": path}, "label": label, "id": image_id, "sha256": sha256}
        self._append(split, row, content=sha256, label=label)

    def _manifest(self, keys: dict[str, np.ndarray]) -> dict[str, Any]:
        return {"classes": self.classes, "data_digest": _digest(keys)}


def _digest(keys: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over (split, id, sha256, label) by split and ascending id: the same however the data is sharded."""
    digest = hashlib.sha256()
    for split in sorted(keys):
        rows = keys[split]
        digest.update(split.encode() + b"\n")
        digest.update(rows[np.argsort(rows["id"], kind="stable")].tobytes())
    return digest.hexdigest()


def image_schema(classes: list[str]) -> pa.Schema:
    """Arrow schema of the shards, with the metadata that tells `datasets` which columns are images, and the class names."""
    columns = {"image": ENCODED, "label": pa.int64(), "id": pa.uint64(), "sha256": pa.binary(32)}
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": classes} if classes else {"_type": "Value", "dtype": "int64"},
        "id": {"_type": "Value", "dtype": "uint64"},
        "sha256": {"_type": "Value", "dtype": "binary"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(columns.items()), metadata=metadata)
