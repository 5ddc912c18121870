from dataclasses import replace

import pytest

from reports.comparison import compare, flat_metrics, from_csv, percent, points, sentences, to_csv
from reports.results import Results
from reports.statistics import BASELINE, DIRECTION_HIGHER, HIGHER, NO_DIFFERENCE


def results_of(scores, *, protocols=("finetune_accuracy", "linear_accuracy", "knn_accuracy"), test_images=400):
    """Results of arms whose protocols all have the same scores, a number a seed."""
    seeds = tuple(range(len(next(iter(scores.values())))))
    measured = {
        (arm, seed): {"test_images": test_images, **dict.fromkeys(protocols, values[seed])}
        for arm, values in scores.items()
        for seed in seeds
    }
    return Results(tuple(scores), seeds, measured, {}, {}, {}, {}, {}, {}, {}, test_images)


def rows_of(scores, **options):
    return compare(results_of(scores, **options), baseline="mae", confidence=0.95, resamples=50)


def test_compare__has_a_row_for_every_arm_and_protocol():
    rows = rows_of({"semmae": [0.5, 0.6], "mae": [0.4, 0.55], "raw": [0.4, 0.6]})
    assert [(row.arm, row.protocol) for row in rows] == [
        (arm, name)
        for arm in ("semmae", "mae", "raw")
        for name in ("finetune_accuracy", "linear_accuracy", "knn_accuracy")
    ]
    assert [row.verdict for row in rows[::3]] == [DIRECTION_HIGHER, BASELINE, NO_DIFFERENCE]
    assert rows[0].difference == pytest.approx(0.075)
    assert rows[3].is_baseline and rows[3].difference is None


def test_flat_metrics__hold_every_number_under_arm_and_protocol():
    flat = flat_metrics(rows_of({"semmae": [0.5, 0.6], "mae": [0.4, 0.55]}))
    assert flat["semmae/knn_accuracy/mean"] == pytest.approx(0.55)
    assert flat["semmae/knn_accuracy/difference"] == pytest.approx(0.075)
    assert flat["semmae/knn_accuracy/se"] == pytest.approx(0.05)
    assert not [name for name in flat if name.startswith("mae/") and "difference" in name]
    assert all(isinstance(value, float) for value in flat.values())


@pytest.mark.parametrize("scores", [[0.123456, 0.654321], [0.5]])
def test_csv__comes_back_as_it_was(tmp_path, scores):
    rows = rows_of({"semmae": scores, "mae": scores[::-1]})
    path = tmp_path / "comparison.csv"
    path.write_text(to_csv(rows, seeds=(3, 8)[: len(scores)]))
    assert path.read_text().splitlines()[0].endswith("verdict," + ",".join(("seed_3", "seed_8")[: len(scores)]))
    for read, row in zip(from_csv(path), rows, strict=True):
        assert (read.arm, read.protocol, read.verdict, read.seeds) == (row.arm, row.protocol, row.verdict, row.seeds)
        assert read.values == pytest.approx(row.values, rel=1e-5)
        for name in ("mean", "se", "difference", "difference_low"):
            mine, theirs = getattr(read, name), getattr(row, name)
            assert mine is theirs is None or mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("text", ["", "\0", "arm,protocol\nsemmae,knn\n", "arm\n"])
def test_from_csv__a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "comparison.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"comparison\.csv: damaged"):
        from_csv(path)


def test_from_csv__a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="not found; run `dvc repro`"):
        from_csv(tmp_path / "comparison.csv")


def test_sentences__two_seeds_make_no_more_than_a_direction():
    seen, worth = sentences(rows_of({"semmae": [0.5, 0.6], "mae": [0.4, 0.55]}))
    assert seen.startswith("semmae against mae: all seeds point up in fine-tuning (+7.5), linear probe (+7.5) and kNN")
    assert "2 seeds can show a direction at most" in worth
    assert "1 of 2" in worth
    assert "400 test images" in worth
    assert "±2.5 points" in worth


def test_sentences__no_difference_shown_is_said_in_words():
    seen, _ = sentences(rows_of({"semmae": [0.5, 0.5], "mae": [0.4, 0.55]}))
    assert "no difference shown in fine-tuning" in seen


def test_sentences__enough_seeds_name_their_interval():
    noise = [0.0, 0.001, -0.001, 0.002, 0.0]
    rows = rows_of({"semmae": [0.53 + step for step in noise], "mae": [0.5] * 5, "raw": [0.5] * 5})
    seen, worth = sentences(rows)
    assert rows[0].verdict == HIGHER
    assert "higher in fine-tuning (+3.0)" in seen
    assert "95 % Student-t intervals over 5 paired seeds" in worth
    assert "6 comparisons" in worth


def test_sentences__one_seed_shows_nothing():
    seen, worth = sentences(rows_of({"semmae": [0.9], "mae": [0.1]}))
    assert "no verdict" in seen
    assert "nothing about the arms" in worth


def test_sentences__a_baseline_alone_is_not_compared():
    seen, worth = sentences(rows_of({"mae": [0.9, 0.8]}))
    assert seen == "Only mae ran."
    assert "nothing to compare" in worth


def test_points_and_percent__read_like_numbers():
    assert (points(0.0134), points(-0.004), points(None)) == ("+1.3", "−0.4", "–")
    assert (percent(0.4123), percent(0.4123, 0.006), percent(None)) == ("41.2", "41.2 ± 0.6", "–")


def test_row__is_frozen():
    row = rows_of({"mae": [0.9]})[0]
    assert replace(row, arm="other").arm == "other"
    with pytest.raises(AttributeError):
        row.arm = "other"
