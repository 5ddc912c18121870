import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.rows import STEPS, group_sizes, growth, ids_of, labels_of, shuffled, table


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
def test_rows__every_step_does_its_work_in_a_process_of_its_own(tmp_path):
    facts = {}
    for step in STEPS:
        command = [
            sys.executable,
            "-m",
            "benchmarks.rows",
            "--step",
            step,
            "--rows",
            "20000",
            "--cache",
            str(tmp_path / "m"),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        facts[step] = json.loads(done.stdout)
        assert facts[step].pop("peak") > 10
    assert facts["write"]["bytes a row"] < 100
    shown = table({20_000: facts, 200_000: facts})
    assert all(step in shown for step in STEPS) and "200,000" in shown and "1.0" in shown


def test_growth__is_per_factor_of_ten():
    assert growth([10, 100, 1000], [1, 10, 10]) == "10.0, 1.0"
    assert growth([10, 1000], [1, 100]) == "10.0"


def test_labels__follow_from_the_id():
    ids = ids_of(np.arange(50))
    assert np.array_equal(labels_of(ids[::-1]), labels_of(ids)[::-1])
    assert labels_of(ids).max() <= 6
