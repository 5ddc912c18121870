import concurrent.futures
import hashlib
import json
import pickle

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import shards.shard_writer
from shards.image_shard_writer import ImageShardWriter
from shards.image_shards import ImageShards, list_shards, read_shard
from shards.row_index import SPLITS
from tests.shards.paths import paths_of

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


def write(folder, counts, *, shard_bytes=20_000, start=0, store=""):
    with ImageShardWriter(folder, classes=["a", "b", "c"], shard_bytes=shard_bytes, store=store) as writer:
        for split, count in counts.items():
            for image_id, label, image in rows(count, start):
                writer.add(
                    split, image_id=image_id, label=label, sha256=hashlib.sha256(image).digest(), image=image,
                    path=f"{split}/{image_id}.png",
                )  # fmt: skip
            start += count
    return folder


COUNTS = {"test": 100, "val": 10, "train": 300}


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "shards", COUNTS)


def test_shards__give_back_what_was_written_in_order_of_the_ids(folder):
    start = 0
    for split, count in COUNTS.items():
        shards = ImageShards(folder, split)
        expected = sorted(rows(count, start))
        assert len(shards) == count
        assert shards.ids.tolist() == [row[0] for row in expected]
        assert shards.labels.tolist() == [row[1] for row in expected]
        assert (shards.ids.dtype, shards.labels.dtype) == (np.uint64, np.int64)
        assert [shards.bytes(row) for row in range(count)] == [image for _, _, image in expected]
        assert paths_of(shards) == [f"{split}/{image_id}.png" for image_id, _, _ in expected]
        start += count


@pytest.mark.parametrize("which", ["labelled", "only"])
def test_shards__chosen_rows_are_those_of_shards_without_the_others(tmp_path, which):
    kept = [row for row in rows(300) if row[1] != 1]
    for name, some in (("all", [(number, label - 3 * (label == 1), image) for number, label, image in rows(300)]),
                       ("kept", kept)):  # fmt: skip
        with ImageShardWriter(tmp_path / name, classes=["a", "b", "c"], shard_bytes=20_000) as writer:
            for image_id, label, image in some:
                label, digest = max(label, -1), hashlib.sha256(image).digest()
                writer.add("train", image_id=image_id, label=label, sha256=digest, image=image, path=f"{image_id}.png")
    whole = ImageShards(tmp_path / "all", "train")
    assert len(whole) == 300 and (whole.labels == -1).sum() == 100
    choice = {"labelled": True, "only": np.array([image_id for image_id, _, _ in kept], np.uint64)}[which]
    view = pickle.loads(pickle.dumps(ImageShards(tmp_path / "all", "train", **{which: choice})))
    alone = ImageShards(tmp_path / "kept", "train")
    for name in ("ids", "labels", "storage"):
        np.testing.assert_array_equal(getattr(view, name), getattr(alone, name))
    assert view.group_sizes.sum() == len(kept) and view.group_sizes.min() > 0
    for row, (_, _, image) in enumerate(sorted(kept)):
        assert view.bytes(row) == image


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
            assert sum(len(row["image"]["bytes"]) for row in table.to_pylist()) <= 20_000
    assert manifest["classes"] == ["a", "b", "c"]


def test_shards__an_image_larger_than_a_shard_has_one_of_its_own(tmp_path):
    write(tmp_path / "s", {"train": 5}, shard_bytes=10)
    assert len(list((tmp_path / "s").glob("train-*.parquet"))) == 5


@pytest.mark.parametrize("shard_bytes", [20_000, 2**26])
def test_shards__appended_rows_leave_full_shards_byte_identical(tmp_path, monkeypatch, shard_bytes):
    monkeypatch.setattr(shards.shard_writer, "FIRST_BYTES", 4000)
    write(tmp_path / "few", {"train": 200}, shard_bytes=shard_bytes)
    write(tmp_path / "many", {"train": 260}, shard_bytes=shard_bytes)
    full = sorted((tmp_path / "few").glob("*.parquet"))[:-1]
    assert len(full) > 8
    for path in full:
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()


def bytes_by_shard(folder):
    """Encoded bytes of every training shard, in their order."""
    tables = [pq.read_table(path, columns=["image"]) for path in sorted(folder.glob("train-*.parquet"))]
    return [sum(len(row["image"]["bytes"]) for row in table.to_pylist()) for table in tables]


def test_shards__new_images_change_a_fifth_of_a_split_at_most_and_shards_are_few(tmp_path, monkeypatch):
    first, largest = 4000, max(len(image) for _, _, image in rows(40))
    monkeypatch.setattr(shards.shard_writer, "FIRST_BYTES", first)
    numbers = []
    for count in (100, 200, 400, 800):
        sizes = bytes_by_shard(write(tmp_path / str(count), {"train": count}, shard_bytes=2**26))
        for number, size in enumerate(sizes):
            assert size <= max(first, sum(sizes[:number]) / 4)
        for number, size in enumerate(sizes[:-1]):
            assert size > max(first, sum(sizes[:number]) / 4) - largest, "no shard is closed early"
        assert sizes[-1] <= sum(sizes) / 5
        numbers.append(len(sizes))
    steps = np.diff(numbers)
    assert steps.max() <= np.ceil(np.log(2) / np.log(1 + 1 / 4)) + 1, "so many more for twice the images, at any size"


def test_shards__shard_bytes_is_the_most_of_a_large_split(tmp_path, monkeypatch):
    monkeypatch.setattr(shards.shard_writer, "FIRST_BYTES", 4000)
    sizes = bytes_by_shard(write(tmp_path / "s", {"train": 400}, shard_bytes=20_000))
    assert max(sizes) <= 20_000
    assert len([size for size in sizes if size > 19_000]) > 5


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
        ImageShardWriter(tmp_path / "s", classes=["a"], shard_bytes=100) as writer,
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
    assert set(frame.columns) == {"image", "label", "id", "sha256"}
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
