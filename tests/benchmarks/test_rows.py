import numpy as np
import pytest

from benchmarks.rows import STEPS, group_sizes, ids_of, labels_of, measure, shuffled
from tests.conftest import ROOT


def test_ids__none_twice_and_spread_evenly():
    ids = ids_of(np.arange(200_000))
    assert len(np.unique(ids)) == 200_000
    counts = np.bincount((ids >> np.uint64(60)).astype(int), minlength=16)
    assert abs(counts - 12_500).max() < 5 * 12_500**0.5
    assert abs(np.corrcoef(np.arange(200_000), ids.astype(float))[0, 1]) < 0.01


def test_group_sizes__hold_every_row():
    for count in (1, 4, 5, 9, 1000, 12_345):
        sizes = group_sizes(count)
        assert sizes.sum() == count and sizes.min() >= 1 and sizes.max() <= 5


def test_shuffled__row_numbers_follow_the_ids_as_in_image_shards():
    ids, order = shuffled(1000)
    assert np.array_equal(ids, np.sort(ids_of(np.arange(1000))))
    assert np.array_equal(ids[order.storage], ids_of(np.arange(1000)))


@pytest.mark.slow
def test_rows__every_step_does_its_work_in_a_process_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    facts = measure(20_000, str(tmp_path))
    assert facts.keys() == STEPS.keys() and all(found["peak"] > 10 for found in facts.values())
    assert facts["write"]["bytes a row"] < 100
    assert len(capsys.readouterr().out.splitlines()) == sum(map(len, facts.values()))


def test_labels__follow_from_the_id():
    ids = ids_of(np.arange(50))
    assert np.array_equal(labels_of(ids[::-1]), labels_of(ids)[::-1])
    assert labels_of(ids).max() <= 6
