import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.comparison import (
    NO_ACCURACY,
    WHERE_TO_JUDGE,
    compare,
    flat_metrics,
    from_csv,
    has_labels,
    headline,
    percent,
    points,
    sentences,
    to_csv,
)
from reports.results import read_results
from reports.statistics import BASELINE, DIRECTION_HIGHER, HIGHER, NO_DIFFERENCE
from shards.files import read_json
from tests.reports.conftest import OWN, results_of


def rows_of(scores, **options):
    return compare(results_of(scores, **options), baseline="mae", confidence=0.95, resamples=50)


def test_compare__has_a_row_for_every_arm_and_protocol():
    rows = rows_of({"semmae": [0.5, 0.6], "mae": [0.4, 0.55], "raw": [0.4, 0.6]})
    assert list(zip(rows["arm"], rows["protocol"], strict=True)) == [
        (arm, name)
        for arm in ("semmae", "mae", "raw")
        for name in ("finetune_accuracy", "linear_accuracy", "knn_accuracy")
    ]
    assert list(rows["verdict"][::3]) == [DIRECTION_HIGHER, BASELINE, NO_DIFFERENCE]
    assert rows.loc[0, "difference"] == pytest.approx(0.075)
    assert rows.loc[3, "arm"] == rows.loc[3, "baseline"] and np.isnan(rows.loc[3, "difference"])


def test_compare__agrees_with_a_paired_test(outs):
    results = read_results(outs, arms=("semmae", "mae", "raw_attention"), seeds=(0, 1), part_truth=True, sources=OWN)
    rows = compare(results, baseline="mae", confidence=0.9, resamples=50).set_index(["arm", "protocol"])
    for (arm, protocol), row in rows.drop("mae", level="arm").iterrows():
        mine, theirs = (
            [
                metrics[protocol]
                for seed in (0, 1)
                for stage in ("probe", "finetune")
                if protocol in (metrics := read_json(outs / f"metrics/{stage}/{name}-{seed}.json"))
            ]
            for name in (arm, "mae")
        )
        oracle = stats.ttest_rel(mine, theirs).confidence_interval(0.9)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(oracle))
        assert row["difference"] == pytest.approx(np.mean(mine) - np.mean(theirs))


def test_compare__one_test_image_is_no_difference():
    for images, word in ((100, NO_DIFFERENCE), (1000, DIRECTION_HIGHER)):
        rows = rows_of({"semmae": [0.51, 0.61], "mae": [0.5, 0.6]}, test_images=images)
        assert set(rows.loc[rows["arm"] == "semmae", "verdict"]) == {word}


def test_headline__other_data_sets_lead_where_the_images_have_no_labels():
    sets = [f"birds/{name}" for name in ("linear_accuracy", "low_shot_10_accuracy")]
    rows = rows_of({"semmae": [0.5], "mae": [0.4]}, protocols=sets)
    assert set(headline(rows)["protocol"]) == {"birds/linear_accuracy"} and not has_labels(rows)
    assert "birds: linear probe (+10.0)" in sentences(rows)[1] and "400 test images of birds" in sentences(rows)[0]
    both = rows_of({"semmae": [0.5], "mae": [0.4]}, protocols=["linear_accuracy", *sets])
    assert set(headline(both)["protocol"]) == {"linear_accuracy"} and has_labels(both)


def test_compare__nothing_to_judge_by_is_no_row_and_said(tmp_path):
    rows = rows_of({"semmae": [0.5, 0.6], "mae": [0.4, 0.5]}, protocols=())
    assert rows.empty and flat_metrics(rows) == {} and sentences(rows) == (NO_ACCURACY, WHERE_TO_JUDGE)
    (tmp_path / "comparison.csv").write_text(to_csv(rows))
    again = from_csv(tmp_path / "comparison.csv")
    assert again.empty and list(again) == list(rows)


def test_flat_metrics__hold_every_number_under_arm_and_protocol():
    flat = flat_metrics(rows_of({"semmae": [0.5, 0.6], "mae": [0.4, 0.55]}))
    assert flat["semmae/knn_accuracy/mean"] == pytest.approx(0.55)
    assert flat["semmae/knn_accuracy/difference"] == pytest.approx(0.075)
    assert flat["semmae/knn_accuracy/se"] == pytest.approx(0.05)
    assert not [name for name in flat if name.startswith("mae/") and "difference" in name]
    assert all(isinstance(value, float) for value in flat.values())


@pytest.mark.parametrize("scores", [[0.123456, 0.654321], [0.5]])
def test_csv__comes_back_as_it_was(tmp_path, scores):
    rows = rows_of({"semmae": scores, "null": scores, "007": scores, "mae": scores[::-1]})
    path = tmp_path / "comparison.csv"
    path.write_text(to_csv(rows))
    assert path.read_text().splitlines()[0].endswith("verdict," + ",".join(("seed_0", "seed_1")[: len(scores)]))
    pd.testing.assert_frame_equal(from_csv(path), rows, rtol=1e-5, check_dtype=False)


@pytest.mark.parametrize("text", ["", "\0", "arm,protocol\nsemmae,knn\n", "arm\n"])
def test_from_csv__a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "comparison.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"comparison\.csv: damaged"):
        from_csv(path)


def test_from_csv__a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="not found; run `dvc repro`"):
        from_csv(tmp_path / "comparison.csv")


def test_sentences__two_seeds_make_no_more_than_a_direction_and_say_so_first():
    worth, seen = sentences(rows_of({"semmae": [0.5, 0.6], "mae": [0.4, 0.55]}))
    assert seen.startswith("semmae against mae: all seeds point up in fine-tuning (+7.5), linear probe (+7.5) and kNN")
    assert worth.startswith("2 seeds cannot show a difference, but a direction at most")
    assert "1 of 2" in worth
    assert "400 test images" in worth
    assert "±2.5 points" in worth


def test_sentences__no_error_of_a_miou_is_claimed():
    rows = rows_of({"semmae": [0.5, 0.6], "mae": [0.4, 0.55]}, protocols=["streets/linear_miou"])
    assert sentences(rows.assign(chance=np.nan))[0].endswith("in 1 of 2 comparisons.")


def test_sentences__no_difference_shown_is_said_in_words():
    _, seen = sentences(rows_of({"semmae": [0.5, 0.5], "mae": [0.4, 0.55]}))
    assert "no difference shown in fine-tuning" in seen


def test_sentences__enough_seeds_name_their_interval():
    noise = [0.0, 0.001, -0.001, 0.002, 0.0]
    rows = rows_of({"semmae": [0.53 + step for step in noise], "mae": [0.5] * 5, "raw": [0.5] * 5})
    seen, worth = sentences(rows)
    assert rows.loc[0, "verdict"] == HIGHER
    assert "higher in fine-tuning (+3.0)" in seen
    assert "95 % Student-t intervals over 5 paired seeds" in worth
    assert "6 comparisons" in worth


def test_sentences__one_seed_shows_nothing():
    worth, seen = sentences(rows_of({"semmae": [0.9], "mae": [0.1]}))
    assert "no verdict" in seen
    assert "nothing about the arms" in worth


def test_sentences__a_baseline_alone_is_not_compared():
    seen, worth = sentences(rows_of({"mae": [0.9, 0.8]}))
    assert seen == "Only mae ran."
    assert "nothing to compare" in worth


def test_points_and_percent__read_like_numbers():
    assert (points(0.0134), points(-0.004), points(np.nan)) == ("+1.3", "−0.4", "–")
    assert (percent(0.4123), percent(0.4123, 0.006), percent(np.nan)) == ("41.2", "41.2 ± 0.6", "–")
