"""The formats of version 2: their code is in no stage's key, so a change of what is on disk needs another VERSION.

`version_2/` was written at commit 147c3e2. What the writers write today has the same content; bytes may differ with pyarrow.
"""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.arrays import ArrayShards, ArrayShardWriter
from shards.image_shard_writer import ImageShardWriter
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache, MaskCacheWriter

STORED = Path(__file__).parent / "version_2"
IDS = np.array([3, 8, 2**40, 2**40 + 1, 2**63], "u8")
SPLITS = {"test": IDS[:1], "val": IDS[1:2], "train": IDS[2:]}
COLUMNS = {"attention": ("<f2", (2, 4)), "token": ("<f4", (3,))}
LABELS_HEADER = {"kind": "labels", "grid": [2, 3], "num_parts": 5, "background": 5, "part_learner": "x"}
LABELS = (np.arange(len(IDS) * 6) % 6).reshape(len(IDS), 2, 3).astype(np.uint8)


def content(image_id):
    return bytes([image_id % 251] * 40)


def values(name):
    kind, shape = COLUMNS[name]
    return (np.arange(len(IDS) * np.prod(shape)).reshape(len(IDS), *shape) / 8).astype(kind)


def write_today(folder):
    with ImageShardWriter(folder / "images", classes=["cat", "dog"], has_masks=True, shard_bytes=100) as images:
        for split, ids in SPLITS.items():
            for number, image_id in enumerate(ids.tolist()):
                mask = {"mask": b"mask", "mask_path": "m.png"} if number else {"mask": None, "mask_path": None}
                images.add(
                    split, image_id=image_id, label=number % 2, sha256=hashlib.sha256(content(image_id)).digest(),
                    image=content(image_id), path=f"{split}/{image_id}.png", max_part_label=4 if number else -1, **mask,
                )  # fmt: skip
    header = {"num_heads": 2, "grid": [2, 2]}
    with ArrayShardWriter(folder / "arrays", columns=COLUMNS, header=header, shard_rows=3) as arrays:
        arrays.add(IDS, **{name: values(name) for name in COLUMNS})
    with MaskCacheWriter(folder / "labels", header=LABELS_HEADER, shard_rows=3) as labels:
        labels.add(IDS, LABELS)
    return folder


@pytest.fixture(params=["stored", "written today"])
def folder(request, tmp_path):
    return STORED if request.param == "stored" else write_today(tmp_path)


def test_image_shards__read_the_same(folder):
    for split, ids in SPLITS.items():
        images = ImageShards(folder / "images", split)
        assert images.ids.tolist() == ids.tolist()
        assert images.classes == ["cat", "dog"]
        for row, image_id in enumerate(ids.tolist()):
            assert bytes(images.bytes(row)) == content(image_id)
            assert images.labels[row] == row % 2
            assert images.path(row) == f"{split}/{image_id}.png"
            mask = images.mask_bytes(row)
            assert (None if mask is None else bytes(mask)) == (b"mask" if row else None)


def test_array_shards__read_the_same(folder):
    arrays = ArrayShards(folder / "arrays")
    for name in COLUMNS:
        assert np.array_equal(arrays.rows(IDS[::-1], name), values(name)[::-1])


def test_mask_cache__reads_the_same(folder):
    cache = MaskCache(folder / "labels")
    assert np.array_equal(cache.rows(IDS[[4, 0]]), LABELS[[4, 0]])
    assert cache[int(IDS[3])].tolist() == LABELS[3].tolist()


def test_files__hold_the_same_tables(tmp_path):
    today = write_today(tmp_path)
    paths = [path.relative_to(STORED) for path in sorted(STORED.rglob("*.parquet"))]
    assert paths == [path.relative_to(today) for path in sorted(today.rglob("*.parquet"))]
    for path in paths:
        assert pq.read_table(today / path).equals(pq.read_table(STORED / path), check_metadata=True), path
