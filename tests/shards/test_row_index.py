import numpy as np
import pytest

from shards.row_index import GROUPS, SPLITS, Group, read_index, write_index

COUNTS = {"train": 300, "val": 0, "test": 7}


@pytest.fixture
def written(tmp_path):
    """ids and labels as they lie in the files, by split, and the index of them."""
    rng = np.random.default_rng(0)
    ids = {split: rng.integers(0, 2**64, count, dtype=np.uint64) for split, count in COUNTS.items()}
    labels = {split: rng.integers(0, 1000, count) for split, count in COUNTS.items()}
    groups = {
        "train": [Group(100, 4, 10**6, 2**32 - 1), Group(200, 2**40, 2**30, 0)],
        "val": [],
        "test": [Group(7, 4, 5, 6)],
    }
    packed = {split: np.array(values, dtype=GROUPS) for split, values in groups.items()}
    return ids, labels, groups, write_index(tmp_path / "index.arrow", ids, labels, packed)


def test_index__rows_ascend_by_id_and_lead_to_the_files_and_back(written, tmp_path):
    ids, labels, groups, entry = written
    for split in SPLITS:
        index = read_index(tmp_path, entry, split)
        assert index.ids.tolist() == sorted(ids[split].tolist())
        assert np.array_equal(ids[split][index.positions], index.ids)
        assert np.array_equal(labels[split][index.positions], index.labels)
        assert np.array_equal(index.ids[index.rows], ids[split])
        assert [index.group(number) for number in range(len(index.group_rows))] == groups[split]
        assert (index.ids.dtype, index.labels.dtype) == (np.uint64, np.int64)


def test_index__is_mapped_and_holds_24_bytes_an_image(written, tmp_path):
    _, _, _, entry = written
    index = read_index(tmp_path, entry, "train")
    assert not any(array.flags.owndata or array.flags.writeable for array in index)
    assert sum(array.nbytes for array in index[:4]) == 24 * 300


def test_index__equal_rows_give_equal_bytes(written, tmp_path):
    ids, labels, groups, entry = written
    packed = {split: np.array(values, dtype=GROUPS) for split, values in groups.items()}
    assert write_index(tmp_path / "again.arrow", ids, labels, packed)["sha256"] == entry["sha256"]
