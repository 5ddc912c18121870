import concurrent.futures
import hashlib
import json
import pickle

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from shards.image_shard_writer import ImageShardWriter
from shards.image_shards import ImageShards, list_shards, read_shard
from shards.row_index import SPLITS

# The smallest PNG: one white pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8ffff3f"
    "0005fe02fe0def46b80000000049454e44ae426082"
)


def rows(count, start=0):
    """(id, label, image bytes) of distinct rows; the ids ascend in no order."""
    for number in range(start, start + count):
        digest = hashlib.sha256(b"%d" % number).digest()
        yield int.from_bytes(digest[:8], "big"), number % 3, PIXEL + digest * (number % 40)


def write(folder, counts, *, shard_bytes=20_000, masks=False, start=0, store=""):
    options = {"classes": ["a", "b", "c"], "has_masks": masks, "shard_bytes": shard_bytes, "store": store}
    with ImageShardWriter(folder, **options) as writer:
        for split, count in counts.items():
            for image_id, label, image in rows(count, start):
                masked = masks and image_id % 2
                writer.add(
                    split, image_id=image_id, label=label, sha256=hashlib.sha256(image).digest(), image=image,
                    path=f"{split}/{image_id}.png", mask=PIXEL if masked else None,
                    mask_path="m.png" if masked else None, max_part_label=5 if masked else -1,
                )  # fmt: skip
            start += count
    return folder


COUNTS = {"test": 100, "val": 10, "train": 300}


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "shards", COUNTS, masks=True)


def test_shards__give_back_what_was_written_in_order_of_the_ids(folder):
    start = 0
    for split, count in COUNTS.items():
        shards = ImageShards(folder, split)
        expected = sorted(rows(count, start))
        assert len(shards) == count
        assert shards.ids.tolist() == [row[0] for row in expected]
        assert shards.labels.tolist() == [row[1] for row in expected]
        assert (shards.ids.dtype, shards.labels.dtype) == (np.uint64, np.int64)
        for row, (image_id, _, image) in enumerate(expected):
            assert shards.bytes(row) == image
            assert shards.path(row) == f"{split}/{image_id}.png"
            assert shards.mask_bytes(row) == (PIXEL if image_id % 2 else None)
        start += count


def test_shards__are_bounded_and_hold_one_split_each(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["index.arrow", "manifest.json"]
        + [shard["file"] for split in SPLITS for shard in manifest["splits"][split]["shards"]]
    )
    assert len(manifest["splits"]["train"]["shards"]) > 3
    for split in SPLITS:
        for number, shard in enumerate(manifest["splits"][split]["shards"]):
            assert shard["file"] == f"{split}-{number:05d}.parquet"
            table = pq.read_table(folder / shard["file"])
            assert shard["rows"] == len(table)
            assert hashlib.sha256((folder / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]
            encoded = [row[name]["bytes"] for row in table.to_pylist() for name in ("image", "mask") if row[name]]
            assert sum(map(len, encoded)) <= 20_000
    assert (manifest["num_part_labels"], manifest["has_masks"], manifest["classes"]) == (6, True, ["a", "b", "c"])


def test_shards__an_image_larger_than_a_shard_has_one_of_its_own(tmp_path):
    write(tmp_path / "s", {"train": 5}, shard_bytes=10)
    assert len(list((tmp_path / "s").glob("train-*.parquet"))) == 5


def test_shards__appended_rows_leave_full_shards_byte_identical(tmp_path):
    write(tmp_path / "few", {"train": 200})
    write(tmp_path / "many", {"train": 260})
    full = sorted((tmp_path / "few").glob("*.parquet"))[:-1]
    assert len(full) > 3
    for path in full:
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()


def test_digest__is_of_the_data_and_not_of_the_shards(tmp_path):
    digests = {}
    for name, options in {"one": {}, "small": {"shard_bytes": 5000}, "other": {"start": 1}}.items():
        digests[name] = ImageShards(write(tmp_path / name, COUNTS, **options), "val").manifest["data_digest"]
    assert digests["one"] == digests["small"] != digests["other"]
    digest = hashlib.sha256()
    start = {"test": 0, "val": 100, "train": 110}
    for split in sorted(COUNTS):
        digest.update(split.encode() + b"\n")
        for image_id, label, image in sorted(rows(COUNTS[split], start[split])):
            digest.update(image_id.to_bytes(8, "big") + hashlib.sha256(image).digest() + label.to_bytes(8, "big"))
    assert digests["one"] == digest.hexdigest()


def test_writer__leaves_nothing_when_it_fails(tmp_path):
    with (
        pytest.raises(RuntimeError),
        ImageShardWriter(tmp_path / "s", classes=["a"], has_masks=False, shard_bytes=100) as writer,
    ):
        writer.add("train", image_id=1, label=0, sha256=b"\0" * 32, image=PIXEL, path="p")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_threads__read_at_once(folder):
    shards = ImageShards(folder, "train")
    expected = [shards.bytes(row) for row in range(300)]
    chosen = np.random.default_rng(0).integers(0, 300, 2000).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(shards.bytes, chosen)) == [expected[row] for row in chosen]


def test_shards__can_be_sent_to_another_process(folder):
    shards = ImageShards(folder, "val")
    assert pickle.loads(pickle.dumps(shards)).bytes(3) == shards.bytes(3)


def test_open__a_truncated_or_missing_shard_is_named(folder):
    path = folder / "val-00000.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=rf"{path}: {len(data) - 1} bytes, the manifest says {len(data)}"):
        ImageShards(folder, "val")
    assert len(ImageShards(folder, "test")) == 100
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path}: None bytes"):
        ImageShards(folder, "val")
    with pytest.raises(ValueError, match="no split dev"):
        ImageShards(folder, "dev")


def test_open__an_empty_split_has_no_rows(tmp_path):
    shards = ImageShards(write(tmp_path / "s", {"train": 3}), "test")
    assert (len(shards), shards.ids.shape, shards.storage.shape) == (0, (0,), (0,))


def test_files__pandas_and_duckdb_read_them_as_they_are(folder):
    frame = pd.concat(map(pd.read_parquet, sorted(folder.glob("train-*.parquet"))))
    assert set(frame.columns) == {"image", "label", "id", "sha256", "mask"}
    expected = {image_id: (label, image) for image_id, label, image in rows(300, 110)}
    assert {row.id: (row.label, row.image["bytes"]) for row in frame.itertuples()} == expected
    query = f"select id, label, image.bytes, octet_length(sha256), image.path from '{folder}/train-*.parquet'"
    found = duckdb.sql(query).fetchall()
    assert {row[0]: (row[1], row[2]) for row in found} == expected
    assert {row[3] for row in found} == {32}


def test_files__datasets_reads_them_as_they_are(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    read = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: len(part) for split, part in read.items()} == {"train": 300, "validation": 10, "test": 100}
    features = read["train"].features
    assert isinstance(features["image"], datasets.Image)
    assert features["label"].names == ["a", "b", "c"]
    row = read["validation"][0]
    assert row["image"].size == (1, 1)
    assert row["id"] in ImageShards(folder, "val").ids


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_read_shard__gives_every_image_once_in_the_order_of_the_files(folder, batch_size):
    start, shards = 0, list_shards(folder)
    assert [shard.rows for shard in shards] == [len(pq.read_table(shard.path)) for shard in shards]
    for split, count in COUNTS.items():
        found = []
        for shard in shards:
            if shard.path.name.startswith(split):
                batches = list(read_shard(shard, batch_size))
                sizes = [len(ids) for ids, _ in batches]
                assert sum(sizes) == shard.rows
                assert set(sizes[:-1]) <= {batch_size}
                found += [(int(i), image) for ids, images in batches for i, image in zip(ids, images, strict=True)]
        assert found == [(image_id, image) for image_id, _, image in rows(count, start)]
        start += count


def test_list_shards__states_the_hash_of_each_file(folder):
    shards = list_shards(folder)
    assert sorted(shard.path for shard in shards) == sorted(folder.glob("*.parquet"))
    for shard in shards:
        assert hashlib.sha256(shard.path.read_bytes()).hexdigest() == shard.sha256


@pytest.mark.parametrize("place", ["a third", "the footer"])
def test_read_shard__a_flipped_bit_is_named(folder, place):
    shard = list_shards(folder)[0]
    data = bytearray(shard.path.read_bytes())
    data[len(data) // 3 if place == "a third" else -shard.footer["bytes"] // 2] ^= 1
    shard.path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{shard.name}: damaged"):
        list(read_shard(shard, 64))
