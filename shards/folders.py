"""Whole folders of array shards: bound into one, checked byte for byte, joined."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from shards.arrays import VERSION, shard_name
from shards.files import distrust, link_or_copy, sha256_of, whole_folder
from shards.seals import MANIFEST, read_manifest, write_sealed
from shards.storage import size_of


def bind_folders(folder: str | Path, names: Sequence[str]) -> None:
    """Write the manifest of a folder that holds folders of array shards: the hash of each one's manifest.

    Written last, so that `is_intact` checks them all as one.
    """
    folders = {name: sha256_of(Path(folder) / name / MANIFEST) for name in names}
    write_sealed(Path(folder) / MANIFEST, {"version": VERSION, "folders": folders})


def is_intact(folder: str | Path) -> bool:
    """Whether a folder of array shards, or of bound folders, exists and is complete, of this version and undamaged.

    Checks the hash of every shard, and the manifest against the shards' own metadata. An object of a store is named by its
    hash, so only its size is checked.
    """
    folder = Path(folder)
    try:
        manifest = read_manifest(folder, VERSION)
        if "folders" in manifest:
            return all(
                sha256_of(folder / name / MANIFEST) == digest and is_intact(folder / name)
                for name, digest in manifest["folders"].items()
            )
        return all(
            size_of(shard["url"]) == shard["bytes"]
            if "url" in shard
            else _is_as_written(folder / shard["file"], shard, manifest["header"])
            for shard in manifest["shards"]
        )
    except (ValueError, OSError, KeyError, TypeError, AttributeError):
        return False


def _is_as_written(path: Path, shard: Mapping[str, Any], header: Mapping[str, Any]) -> bool:
    if sha256_of(path) != shard["sha256"]:
        distrust(path)
        return False
    footer = pq.read_metadata(path)
    sizes = {"rows": footer.num_rows, "bytes": path.stat().st_size}
    return shard == {**shard, **sizes} and header == json.loads(footer.metadata[b"header"])


def join_shards(folders: Sequence[str | Path], target: str | Path) -> None:
    """Write `target` from the shards of `folders`, in that order: hard links, or copies where links are impossible.

    Objects of a store stay where they are. The result equals, byte for byte, a folder written in one go.
    """
    manifests = [read_manifest(Path(folder), VERSION) for folder in folders]
    headers = [manifest["header"] for manifest in manifests]
    assert headers and all(header == headers[0] for header in headers), "only shards with equal headers can be joined"
    shards: list[dict[str, Any]] = []
    with whole_folder(target) as place:
        for folder, manifest in zip(folders, manifests, strict=True):
            for shard in manifest["shards"]:
                if "url" in shard:
                    shards.append(shard)
                    continue
                name = shard_name(len(shards))
                link_or_copy(Path(folder) / shard["file"], place / name)
                shards.append({**shard, "file": name})
        write_sealed(place / MANIFEST, {"version": VERSION, "header": headers[0], "shards": shards})
