"""The formats on disk: their code is in no stage's key, so a change of one needs another VERSION and another folder in `stored/`.

What the writers write today has the same content; bytes may differ with pyarrow.
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
from shards.mask_shards import MaskShards, MaskShardWriter
from tests.shards.paths import paths_of

STORED = Path(__file__).parent / "stored"
IDS = np.array([3, 8, 2**40, 2**40 + 1, 2**63], "u8")
SPLITS = {"test": IDS[:1], "val": IDS[1:2], "train": IDS[2:]}
COLUMNS = {"attention": ("<f2", (2, 4)), "token": ("<f4", (3,))}
LABELS_HEADER = {"kind": "labels", "grid": [2, 3], "num_parts": 5, "background": 5, "part_learner": "x"}
VALUES = {1: 255, 2: 2, 9: 0}
LABELS = (np.arange(len(IDS) * 6) % 6).reshape(len(IDS), 2, 3).astype(np.uint8)


def content(image_id):
    return bytes([image_id % 251] * 40)


def values(name):
    kind, shape = COLUMNS[name]
    return (np.arange(len(IDS) * np.prod(shape)).reshape(len(IDS), *shape) / 8).astype(kind)


def write_today(folder):
    with (
        ImageShardWriter(folder / "images", classes=["cat", "dog"], shard_bytes=100) as images,
        MaskShardWriter(folder / "masks", shard_bytes=8) as masks,
    ):
        masks.labels = VALUES
        for split, ids in SPLITS.items():
            for number, image_id in enumerate(ids.tolist()):
                image = content(image_id)
                images.add(
                    split, image_id=image_id, label=number - 1, sha256=hashlib.sha256(image).digest(), image=image,
                    path=f"{split}/{image_id}.png",
                )  # fmt: skip
                if number:
                    pixels = np.bincount([number, 9, 9], minlength=256)
                    masks.add(split, image_id=image_id, mask=b"mask%d" % number, path="m.png", pixels=pixels)
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
        assert paths_of(images) == [f"{split}/{image_id}.png" for image_id in ids.tolist()]
        for row, image_id in enumerate(ids.tolist()):
            assert bytes(images.bytes(row)) == content(image_id)
            assert images.labels[row] == row - 1


def test_mask_shards__read_the_same(folder):
    for split, ids in SPLITS.items():
        masks = MaskShards(folder / "masks", split)
        assert masks.ids.tolist() == ids[1:].tolist()
        assert masks.labelled_ids.tolist() == ids[1:].tolist()
        assert [masks.bytes(image_id) for image_id in ids.tolist()] == [None, b"mask1", b"mask2"][: len(ids)]
        assert (masks.num_labels, masks.labels[[0, 1, 2, 9]].tolist()) == (3, [255, 255, 2, 0])
        assert masks.pixels.tolist() == {"train": [4, 0, 1]}.get(split, [0, 0, 0])


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
