import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.arrays import PAGE_ROWS, ArrayShards, ArrayShardWriter
from shards.folders import bind_folders, is_intact, join_shards
from shards.mask_cache import MaskCache, MaskCacheWriter


def header(**changes):
    return {
        "grid": [14, 14],
        "patch_size": 16,
        "num_parts": 6,
        "background": 6,
        "kind": "labels",
        "teacher": "t",
        "part_learner": "p",
        **changes,
    }


def write_masks(folder, ids, labels, *, shard_rows=1000, batch=64, **changes):
    with MaskCacheWriter(
        folder, header=header(grid=list(labels.shape[1:]), **changes), shard_rows=shard_rows
    ) as writer:
        for start in range(0, len(ids), batch):
            writer.add(ids[start : start + batch], labels[start : start + batch])


def random_ids(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64) | np.uint64(1)


@pytest.mark.parametrize(("parts", "background"), [(2, None), (2, 2), (6, 6), (6, None), (12, 12), (200, 200)])
@pytest.mark.parametrize("grid", [(1, 1), (8, 8), (3, 7)])
def test_mask_cache__gives_back_what_was_added(tmp_path, parts, background, grid):
    values = parts + (background is not None)
    labels = np.random.default_rng(1).integers(0, values, (150, *grid)).astype(np.uint8)
    ids = random_ids(150)
    write_masks(tmp_path / "m", ids, labels, shard_rows=40, num_parts=parts, background=background)
    cache = MaskCache(tmp_path / "m")
    assert len(cache) == 150
    assert cache.num_shards == 4
    assert np.array_equal(cache.ids, ids)
    order = np.random.default_rng(2).permutation(150)
    assert np.array_equal(cache.rows(ids[order]), labels[order])
    assert np.array_equal(cache[int(ids[77])], labels[77])
    assert np.array_equal(np.concatenate([cache.shard(i)[1] for i in range(4)]), labels)
    assert cache[int(ids[0])].dtype == np.uint8


def test_mask_cache__an_image_costs_at_most_100_bytes(tmp_path):
    labels = np.random.default_rng(0).integers(0, 7, (2000, 14, 14)).astype(np.uint8)
    write_masks(tmp_path / "m", random_ids(2000), labels, shard_rows=65536)
    size = sum(path.stat().st_size for path in (tmp_path / "m").iterdir())
    assert size / 2000 <= 100


def test_mask_cache__an_unknown_id_is_named(tmp_path):
    write_masks(tmp_path / "m", random_ids(3), np.zeros((3, 14, 14), np.uint8))
    with pytest.raises(KeyError, match="id 4 is not in"):
        MaskCache(tmp_path / "m")[4]


def test_mask_cache__pyarrow_and_numpy_alone_can_read_it(tmp_path):
    labels = np.random.default_rng(0).integers(0, 7, (10, 14, 14)).astype(np.uint8)
    write_masks(tmp_path / "m", random_ids(10), labels)
    table = pq.read_table(tmp_path / "m" / "shard-00000.parquet")
    packed = np.frombuffer(b"".join(table["labels"].to_pylist()), np.uint8).reshape(10, -1)
    bits = np.unpackbits(packed, axis=1)[:, : 196 * 3].reshape(10, 14, 14, 3)
    assert np.array_equal(bits @ [4, 2, 1], labels)


def test_mask_cache__equal_labels_give_equal_bytes_whatever_the_batches(tmp_path):
    labels, ids = np.random.default_rng(0).integers(0, 7, (100, 14, 14)).astype(np.uint8), random_ids(100)
    for name, batch in (("a", 100), ("b", 7)):
        write_masks(tmp_path / name, ids, labels, batch=batch, shard_rows=30)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_array_shards__round_trip_of_several_columns(tmp_path):
    rng = np.random.default_rng(0)
    ids, a, b = random_ids(25), rng.normal(size=(25, 6, 4)).astype("<f2"), rng.normal(size=(25, 3)).astype("<f4")
    columns = {"a": ("<f2", (6, 4)), "b": ("<f4", (3,))}
    with ArrayShardWriter(tmp_path / "s", columns=columns, header={"x": 1}, shard_rows=10) as writer:
        writer.add(ids[:13], a=a[:13], b=b[:13])
        writer.add(ids[13:], a=a[13:], b=b[13:])
    shards = ArrayShards(tmp_path / "s")
    assert shards.header["x"] == 1
    assert [len(shards.shard(i)[0]) for i in range(shards.num_shards)] == [10, 10, 5]
    assert np.array_equal(shards.rows(ids[::-1], "a"), a[::-1])
    assert np.array_equal(shards.rows(ids[[3]], "b"), b[[3]])


def test_array_shards__an_error_while_writing_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError), ArrayShardWriter(tmp_path / "s", columns={}, header={}, shard_rows=2) as writer:
        writer.add(random_ids(5))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def write_pieces(folder, ids, labels, rows):
    """The same masks as caches of `rows` rows each; their folders."""
    starts = range(0, len(ids), rows)
    for start in starts:
        write_masks(folder / str(start), ids[start : start + rows], labels[start : start + rows], shard_rows=rows)
    return [folder / str(start) for start in starts]


def test_join_shards__has_the_bytes_of_what_was_written_in_one_go(tmp_path):
    labels, ids = np.random.default_rng(0).integers(0, 7, (100, 14, 14)).astype(np.uint8), random_ids(100)
    write_masks(tmp_path / "whole", ids, labels, shard_rows=30)
    join_shards(write_pieces(tmp_path / "pieces", ids, labels, 30), tmp_path / "joined")
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "joined").iterdir()}
    assert np.array_equal(MaskCache(tmp_path / "joined").rows(ids[::-1]), labels[::-1])


def test_join_shards__an_image_costs_at_most_100_bytes(tmp_path):
    """Also where a shard of 64 MiB holds photographs of 100 KiB: some 640."""
    labels, ids = np.random.default_rng(0).integers(0, 7, (2000, 14, 14)).astype(np.uint8), random_ids(2000)
    join_shards(write_pieces(tmp_path / "pieces", ids, labels, 640), tmp_path / "joined")
    size = sum(path.stat().st_size for path in (tmp_path / "joined").iterdir())
    assert 73.5 < size / 2000 <= 100


def test_is_intact__every_flipped_bit_of_a_shard_and_every_cut_is_seen(tmp_path):
    write_masks(tmp_path / "m", random_ids(5), np.zeros((5, 14, 14), np.uint8))
    path = tmp_path / "m" / "shard-00000.parquet"
    whole = path.read_bytes()
    assert is_intact(tmp_path / "m")
    for place in range(0, len(whole), 13):
        path.write_bytes(whole[:place])
        assert not is_intact(tmp_path / "m")
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not is_intact(tmp_path / "m")
    path.write_bytes(whole)
    assert is_intact(tmp_path / "m")
    assert not is_intact(tmp_path / "nothing")


def test_bind_folders__every_byte_of_every_folder_counts(tmp_path):
    write_masks(tmp_path / "m/some", random_ids(5), np.zeros((5, 14, 14), np.uint8))
    write_masks(tmp_path / "m/none", random_ids(0), np.zeros((0, 14, 14), np.uint8))
    assert not is_intact(tmp_path / "m"), "the manifest that binds them comes last"
    bind_folders(tmp_path / "m", ("some", "none"))
    assert is_intact(tmp_path / "m")
    files = [path for path in (tmp_path / "m").rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        whole = path.read_bytes()
        for place in range(0, len(whole), 17):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert not is_intact(tmp_path / "m"), (path, place)
        path.unlink()
        assert not is_intact(tmp_path / "m")
        path.write_bytes(whole)
    assert is_intact(tmp_path / "m")


def test_rows__are_what_pyarrow_reads_wherever_a_column_lies(tmp_path):
    draw, count = np.random.default_rng(0), 2 * PAGE_ROWS + 5
    ids = random_ids(count)
    columns = {"a": ("<f2", (3, 1)), "b": ("|u1", (7,)), "c": ("<u8", ())}
    values = {
        name: draw.integers(0, 256, (count, *shape, np.dtype(kind).itemsize), dtype=np.uint8).view(kind)[..., 0]
        for name, (kind, shape) in columns.items()
    }
    with ArrayShardWriter(tmp_path / "s", columns=columns, header={}, shard_rows=10**6) as writer:
        for start in range(0, count, 5000):
            part = slice(start, start + 5000)
            writer.add(ids[part], **{name: found[part] for name, found in values.items()})
    shards = ArrayShards(tmp_path / "s")
    assert shards.num_shards == 3
    table = pq.read_table([tmp_path / "s" / f"shard-0000{number}.parquet" for number in range(3)])
    order = draw.permutation(count)
    for name, (kind, shape) in columns.items():
        read = np.frombuffer(b"".join(table[name].to_pylist()), kind).reshape(count, *shape)
        assert shards.rows(ids[order], name).tobytes() == read[order].tobytes()


def test_array_shard_writer__a_shard_is_one_page_of_every_column(tmp_path, monkeypatch):
    monkeypatch.setattr("shards.arrays.PAGE_BYTES", 1000)
    ids, wide = random_ids(25), np.random.default_rng(0).normal(size=(25, 60)).astype("<f4")
    with ArrayShardWriter(tmp_path / "s", columns={"wide": ("<f4", (60,))}, header={}, shard_rows=20) as writer:
        writer.add(ids, wide=wide)
    shards = ArrayShards(tmp_path / "s")
    assert [len(shards.shard(i)[0]) for i in range(shards.num_shards)] == [4] * 6 + [1]
    assert np.array_equal(shards.rows(ids[::-1], "wide"), wide[::-1])


def test_rows__a_flipped_bit_is_named_and_never_used(tmp_path):
    labels, ids = np.random.default_rng(0).integers(0, 7, (300, 14, 14)).astype(np.uint8), random_ids(300)
    write_masks(tmp_path / "m", ids, labels, shard_rows=100)
    path = tmp_path / "m" / "shard-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for read in (
        lambda cache: cache.rows(ids[150:151]),
        lambda cache: cache.rows(ids[:100]),
        lambda cache: cache.shard(1),
    ):
        with pytest.raises(ValueError, match=r"shard-00001\.parquet: damaged.* run `dvc repro`"):
            read(MaskCache(tmp_path / "m"))


def test_rows__keep_no_file_open(tmp_path):
    labels, ids = np.random.default_rng(0).integers(0, 7, (300, 2, 2)).astype(np.uint8), random_ids(300)
    write_masks(tmp_path / "m", ids, labels, shard_rows=1)
    cache, before = MaskCache(tmp_path / "m"), len(os.listdir("/proc/self/fd"))
    assert np.array_equal(cache.rows(ids), labels)
    assert len(os.listdir("/proc/self/fd")) == before
    assert cache.rows(ids[:0]).shape == (0, 2, 2)
    assert np.array_equal(cache.rows(ids[[5, 5, 4, 5]]), labels[[5, 5, 4, 5]])
