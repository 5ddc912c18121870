import numpy as np
import pytest

from evaluation.predictions import NO_PREDICTION, Predictions, read_predictions, write_predictions


def predictions():
    ids = np.array([3, 7, 2**63 + 5], dtype=np.uint64)
    return Predictions(ids, np.array([0, 1, 1]), {"knn_accuracy": np.array([0, 0, NO_PREDICTION])})


def test_predictions__come_back_as_written(tmp_path):
    write_predictions(tmp_path / "a/b.parquet", predictions())
    found = read_predictions(tmp_path / "a/b.parquet")
    assert np.array_equal(found.ids, predictions().ids)
    assert np.array_equal(found.labels, [0, 1, 1])
    assert np.array_equal(found.correct("knn_accuracy"), [1, 0, np.nan], equal_nan=True)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_predictions__damage_is_one_line_that_names_the_file(tmp_path, damage):
    path = tmp_path / "b.parquet"
    if damage == "truncated":
        write_predictions(path, predictions())
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"b\.parquet: missing or damaged"):
        read_predictions(path)
