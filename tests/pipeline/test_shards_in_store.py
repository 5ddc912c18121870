"""Shards whose files lie in a store: the same to their readers, at few requests, and every fault named."""

import concurrent.futures
import json
import pickle
import threading

import numpy as np
import pytest

from jobs.kept_shards import KeptShards
from shards import parquet_files
from shards.arrays import ArrayShards, ArrayShardWriter
from shards.folders import join_shards
from shards.image_shards import ImageShards, list_shards, read_shard
from shards.row_index import SPLITS
from tests.shards.test_image_shards import COUNTS, write

SAME = ("rows", "bytes", "sha256", "footer")


@pytest.fixture
def local(tmp_path):
    return write(tmp_path / "local", COUNTS, shard_bytes=60_000)


@pytest.fixture
def remote(bucket, tmp_path):
    folder = write(tmp_path / "remote", COUNTS, shard_bytes=60_000, store=f"{bucket.url}/data/")
    bucket.asked()
    return folder


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def entries(folder, splits=SPLITS):
    return [shard for split in splits for shard in manifest_of(folder)["splits"][split]["shards"]]


def shard_of(folder, entry):
    return next(shard for shard in list_shards(folder) if shard.path == entry["url"])


def key_of(entry, bucket):
    return entry["url"].removeprefix(f"{bucket.url}/")


def test_writer__the_store_has_the_files_and_the_folder_the_rest(local, remote, bucket):
    assert sorted(path.name for path in remote.iterdir()) == ["index.arrow", "manifest.json"]
    assert (remote / "index.arrow").read_bytes() == (local / "index.arrow").read_bytes()
    for one, other in zip(entries(local), entries(remote), strict=True):
        assert other == {**{name: one[name] for name in SAME}, "url": f"{bucket.url}/data/{one['sha256']}.parquet"}
        assert bucket.get(key_of(other, bucket)) == (local / one["file"]).read_bytes()
    whole, same = manifest_of(local), manifest_of(remote)
    for name in ("data_digest", "classes", "index"):
        assert whole[name] == same[name]


def test_writer__one_shard_at_a_time_is_on_the_disk(bucket, tmp_path, monkeypatch):
    seen, inner = [], parquet_files.send

    def watched(source, url):
        seen.append([path.name for path in source.parent.iterdir() if path.suffix == ".parquet"])
        inner(source, url)

    monkeypatch.setattr(parquet_files, "send", watched)
    write(tmp_path / "s", COUNTS, store=bucket.url)
    assert len(seen) > 5 and all(len(names) == 1 for names in seen)


def test_writer__an_interrupted_upload_sends_what_is_not_there(bucket, tmp_path, monkeypatch):
    sent, inner = [], parquet_files.send

    def failing(source, url):
        if len(sent) == 3:
            raise ValueError("the network is gone")
        sent.append(url)
        inner(source, url)

    with monkeypatch.context() as patch:
        patch.setattr(parquet_files, "send", failing)
        with pytest.raises(ValueError, match="the network is gone"):
            write(tmp_path / "s", COUNTS, store=bucket.url)
    assert list(tmp_path.iterdir()) == []
    # Of the third a part arrived.
    third = sent[2].removeprefix(f"{bucket.url}/")
    bucket.put(third, bucket.get(third)[:1000])
    bucket.asked()
    urls = {entry["url"]: entry["bytes"] for entry in entries(write(tmp_path / "s", COUNTS, store=bucket.url))}
    put = [f"s3:/{request.path}" for request in bucket.asked("PUT")]
    assert sorted(put) == sorted(urls.keys() - set(sent[:2]))
    assert {f"{bucket.url}/{key}": size for key, size in bucket.keys().items()} == urls


def test_writer__that_fails_at_its_last_shard_leaves_no_folder(bucket, tmp_path, monkeypatch):
    def failing(source, url):
        raise ValueError("the network is gone")

    monkeypatch.setattr(parquet_files, "send", failing)
    with pytest.raises(ValueError, match="the network is gone"):
        write(tmp_path / "s", {"train": 3}, store=bucket.url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", SPLITS)
def test_shards__are_the_same_wherever_they_lie(local, remote, split):
    here, there = ImageShards(local, split), ImageShards(remote, split)
    for name in ("ids", "labels", "storage", "group_sizes"):
        assert np.array_equal(getattr(here, name), getattr(there, name))
    assert (here.classes, len(here)) == (there.classes, len(there))
    for row in range(len(here)):
        assert here.bytes(row) == there.bytes(row)
    assert pickle.loads(pickle.dumps(there)).bytes(0) == here.bytes(0)


def test_shards__in_a_folder_by_its_url_are_the_same(local, tmp_path):
    folder = write(tmp_path / "remote", COUNTS, shard_bytes=60_000, store=f"file://{tmp_path}/store")
    here, there = (ImageShards(place, "train") for place in (local, folder))
    assert [here.bytes(row) for row in range(300)] == [there.bytes(row) for row in range(300)]


def test_read_shard__is_the_same_wherever_it_lies(local, remote):
    for here, there in zip(list_shards(local), list_shards(remote), strict=True):
        assert (here.rows, here.sha256) == (there.rows, there.sha256)
        for (ids, images), (same_ids, same_images) in zip(read_shard(here, 50), read_shard(there, 50), strict=True):
            assert np.array_equal(ids, same_ids) and images == same_images


def test_shards__opening_asks_for_sizes_and_reading_for_one_row_group(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("shards.shard_writer.FIRST_BYTES", 600_000)
    folder = write(tmp_path / "s", {"train": 3000}, shard_bytes=600_000, store=bucket.url)
    listed = entries(folder)
    bucket.asked()
    shards = ImageShards(folder, "train")
    assert sorted((request.method, f"s3:/{request.path}") for request in bucket.asked()) == sorted(
        ("HEAD", entry["url"]) for entry in listed
    )
    shards.bytes(7)
    (request,) = bucket.asked()
    assert request.method == "GET" and request.bytes < listed[0]["bytes"] / 8
    shards.bytes(7)
    assert bucket.asked() == [], "a row group that was read is kept"


def test_shards__a_pass_in_the_order_of_the_files_reads_each_row_group_with_one_request(bucket, tmp_path):
    folder = write(tmp_path / "s", {"train": 1000}, shard_bytes=200_000, store=bucket.url)
    shards = ImageShards(folder, "train")
    bucket.asked()
    assert len([shards.bytes(row) for row in shards.storage]) == 1000
    found = bucket.asked()
    assert len(found) == len(shards.group_sizes)
    assert sum(request.bytes for request in found) < sum(entry["bytes"] for entry in entries(folder))


def test_read_shard__reads_each_byte_about_once_and_few_at_a_time(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("shards.image_shards.SPAN_BYTES", 200_000)
    monkeypatch.setattr("shards.shard_writer.FIRST_BYTES", 5_000_000)
    folder = write(tmp_path / "s", {"train": 3000}, shard_bytes=5_000_000, store=bucket.url)
    (shard,) = list_shards(folder)
    bucket.asked()
    assert sum(len(ids) for ids, _ in read_shard(shard, 64)) == 3000
    found, size = bucket.asked("GET"), entries(folder)[0]["bytes"]
    assert len(found) <= 2 * size / 200_000
    assert sum(request.bytes for request in found) <= size + 2**16


def test_shards__threads_have_their_requests_under_way_at_once(bucket, tmp_path, monkeypatch):
    """Each read waits for the other, which ends only where the reader does not hold a lock meanwhile."""
    shards = ImageShards(write(tmp_path / "s", COUNTS, store=bucket.url), "train")
    meeting, inner = threading.Barrier(2, timeout=30), shards._read

    def read(group):
        meeting.wait()
        return inner(group)

    monkeypatch.setattr(shards, "_read", read)
    first, last = int(shards.storage[0]), int(shards.storage[-1])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert all(pool.map(shards.bytes, [first, last]))


def test_shards__a_row_group_that_is_being_read_is_not_read_again(bucket, tmp_path):
    shards = ImageShards(write(tmp_path / "s", {"train": 30}, store=bucket.url), "train")
    assert len(shards.group_sizes) == 1
    bucket.asked()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(shards.bytes, range(30)))) == 30
    assert len(bucket.asked()) == 1


def test_shards__a_read_that_failed_is_tried_again(bucket, tmp_path, monkeypatch):
    shards = ImageShards(write(tmp_path / "s", {"train": 3}, store=bucket.url), "train")
    inner, failures = shards._read, iter([ValueError("the network is gone")])

    def read(group):
        for failure in failures:
            raise failure
        return inner(group)

    monkeypatch.setattr(shards, "_read", read)
    with pytest.raises(ValueError, match="the network is gone"):
        shards.bytes(0)
    assert shards.bytes(0)


@pytest.mark.parametrize("fault", ["truncated", "missing"])
def test_open__an_object_that_is_not_whole_is_named(remote, bucket, fault):
    entry = entries(remote, ["val"])[0]
    data = bucket.get(key_of(entry, bucket))
    bucket.delete(key_of(entry, bucket))
    if fault == "truncated":
        bucket.put(key_of(entry, bucket), data[:-1])
    size = len(data) - 1 if fault == "truncated" else None
    for opening in (lambda: ImageShards(remote, "val"), lambda: list_shards(remote)):
        with pytest.raises(ValueError) as error:
            opening()
        assert str(error.value).startswith(
            f"{entry['url']}: {size} bytes, the manifest says {len(data)}; run the stage"
        )
        assert "\n" not in str(error.value)
    assert len(ImageShards(remote, "test")) == 100


def test_read__a_flipped_bit_is_named(remote, bucket):
    entry = entries(remote, ["val"])[0]
    data = bytearray(bucket.get(key_of(entry, bucket)))
    data[len(data) // 4] ^= 1
    bucket.put(key_of(entry, bucket), bytes(data))
    shards, shard = ImageShards(remote, "val"), shard_of(remote, entry)
    for reading in (lambda: [shards.bytes(row) for row in range(10)], lambda: list(read_shard(shard, 5))):
        with pytest.raises(ValueError, match=f"^{entry['url']}: damaged "):
            reading()


def test_read__an_object_that_goes_away_is_named(remote, bucket):
    entry = entries(remote, ["val"])[0]
    shards, shard = ImageShards(remote, "val"), shard_of(remote, entry)
    bucket.delete(key_of(entry, bucket))
    with pytest.raises(ValueError, match=f"^{entry['url']}: .*there is no such object"):
        shards.bytes(0)
    with pytest.raises(ValueError, match=f"^{entry['url']}: .*there is no such object"):
        list(read_shard(shard, 5))


def write_arrays(folder, store="", rows=25):
    ids = np.random.default_rng(0).permutation(rows).astype(np.uint64)
    values = np.random.default_rng(1).normal(size=(rows, 6)).astype("<f2")
    columns = {"a": ("<f2", (6,))}
    with ArrayShardWriter(folder, columns=columns, header={"x": 1}, shard_rows=10, store=store) as writer:
        writer.add(ids, a=values)
    return ids, values


def test_array_shards__are_the_same_wherever_they_lie(bucket, tmp_path):
    ids, values = write_arrays(tmp_path / "s", bucket.url)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["manifest.json"]
    shards = ArrayShards(tmp_path / "s")
    assert np.array_equal(shards.ids, ids) and len(shards) == 25
    assert np.array_equal(shards.rows(ids[::-1], "a"), values[::-1])
    assert np.array_equal(np.concatenate([shards.shard(i)[1]["a"] for i in range(3)]), values)


def test_array_shards__are_kept_and_joined_where_they_lie(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with KeptShards("job", "print") as kept:
        write_arrays(kept.place("a"), bucket.url)
    with KeptShards("job", "print") as kept:
        assert kept.has("a")
        join_shards([kept.place("a"), kept.place("a")], tmp_path / "joined")
        bucket.delete(next(iter(bucket.keys())))
        assert not kept.has("a")
    assert [path.name for path in (tmp_path / "joined").iterdir()] == ["manifest.json"]
    with pytest.raises(ValueError, match=rf"^{bucket.url}/[0-9a-f]{{64}}\.parquet: None bytes"):
        ArrayShards(tmp_path / "joined")
