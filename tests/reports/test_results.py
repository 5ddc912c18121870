import csv
import dataclasses
import shutil

import numpy as np
import pytest

from evaluation.accuracy import class_accuracy
from evaluation.predictions import read_predictions, write_predictions
from evaluation.protocols import Source
from reports.results import CURVES, curves_csv, read_results
from shards.files import read_json, write_json
from tests.reports.conftest import OWN, write_metrics_of

ARMS, SEEDS = ("semmae", "mae", "raw_attention"), (0, 1)


@pytest.fixture
def root(outs, tmp_path):
    """Metrics and histories that a test may change."""
    for name in ("metrics", "history"):
        shutil.copytree(outs / name, tmp_path / name)
    return tmp_path


def test_read_results__reads_the_files_of_arms_and_seeds(root):
    results = read_results(root, arms=ARMS, seeds=SEEDS, part_truth=True, sources=OWN)
    scores = results.scores
    assert (scores["test_images"] == 12).all()
    names = list(scores["protocol"].unique())
    assert names[:3] == ["finetune_accuracy", "linear_accuracy", "knn_accuracy"]
    assert not {"test_images", "penalty"} & set(names)
    expected = [read_json(root / f"metrics/probe/mae-{seed}.json")["knn_accuracy"] for seed in SEEDS]
    assert list(scores.query("arm == 'mae' and protocol == 'knn_accuracy'")["value"]) == expected
    assert not scores.duplicated(["arm", "seed", "protocol"]).any() and len(scores) == 3 * 2 * len(names)


@pytest.mark.parametrize(
    "name",
    [
        "metrics/probe/mae-1.json", "metrics/finetune/semmae-0.json", "metrics/pretrain/raw_attention-0.json",
        "history/pretrain/mae-0.json", "history/finetune/mae-1.json", "metrics/prepare_data.json",
        "metrics/train_teacher.json", "metrics/refine_parts.json", "metrics/evaluate_parts.json",
    ],
)  # fmt: skip
def test_read_results__a_missing_file_is_named_in_one_line(root, name):
    (root / name).unlink()
    with pytest.raises(ValueError, match="not found") as caught:
        read_results(root, arms=ARMS, seeds=SEEDS, part_truth=True, sources=OWN)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_results__what_other_arms_and_seeds_left_behind_is_not_read(root):
    for stage in ("probe", "finetune", "pretrain"):
        for job in ("raw_attention-0", "raw_attention-1", "mae-7"):
            (root / f"metrics/{stage}/{job}.json").write_text("not JSON")
    results = read_results(root, arms=("semmae", "mae"), seeds=SEEDS, part_truth=True, sources=OWN)
    assert set(results.scores["arm"]) == {"semmae", "mae"} and set(results.pretraining["seed"]) == {0, 1}


def test_read_results__part_quality_of_other_data_is_not_read(root):
    (root / "metrics/evaluate_parts.json").write_text("of an earlier data set, damaged")
    assert read_results(root, arms=ARMS, seeds=SEEDS, part_truth=False, sources=OWN).parts == {}


def test_read_results__other_test_images_are_refused(root):
    path = root / "metrics/finetune/mae-1.json"
    write_json(path, {**read_json(path), "test_images": 11})
    with pytest.raises(ValueError, match=r"tested on \[11, 12\] images"):
        read_results(root, arms=ARMS, seeds=SEEDS, part_truth=True, sources=OWN)


def test_read_results__a_metric_of_one_arm_alone_is_refused(root):
    path = root / "metrics/probe/semmae-1.json"
    write_json(path, {**read_json(path), "knn_accuracy_k9": 0.5})
    with pytest.raises(ValueError, match=r"semmae-0\.json: knn_accuracy_k9 is missing and other jobs have it"):
        read_results(root, arms=ARMS, seeds=SEEDS, part_truth=True, sources=OWN)


def test_read_results__a_metric_of_no_known_protocol_is_refused(root):
    for path in (root / "metrics/probe").iterdir():
        write_json(path, {**read_json(path), "guesses": 0.5})
    with pytest.raises(ValueError, match="guesses: no such protocol; add an entry to evaluation/protocols.py"):
        read_results(root, arms=ARMS, seeds=SEEDS, part_truth=True, sources=OWN)


def test_read_results__a_protocol_of_another_stage_is_refused(root):
    for path in (root / "metrics/probe").iterdir():
        write_json(path, {**read_json(path), "upernet_miou": 0.5})
    with pytest.raises(ValueError, match="metrics/probe: upernet_miou is no protocol of stage probe"):
        read_results(root, arms=ARMS, seeds=SEEDS, part_truth=True, sources=OWN)


def test_read_results__segmentation_has_scores_of_its_own_data_and_of_its_classes(root):
    for arm in ARMS:
        for seed in SEEDS:
            metrics = {
                "test_images": 7,
                "upernet_miou": 0.3,
                "upernet_iou/0": 0.1,
                "upernet_iou/3": 0.5,
                "floor_miou": 0.2,
            }
            write_json(root / f"metrics/segment/tiny/{arm}-{seed}.json", metrics)
    sources = [*OWN, Source("segment/tiny", "segment", "tiny/")]
    results = read_results(root, arms=ARMS, seeds=SEEDS, part_truth=True, sources=sources)
    scores = results.scores[results.scores["protocol"] == "tiny/upernet_miou"]
    assert len(scores) == 6 and (scores["test_images"] == 7).all()
    assert set(results.class_iou["segmentation"]) == {"tiny/upernet"} and set(results.class_iou["label"]) == {"0", "3"}
    assert not results.scores["protocol"].str.contains("iou/").any()


def test_read_results__the_floor_of_a_protocol_is_the_largest_class_of_its_test_images(root):
    labels = np.array([0] * 6 + [1] * 4 + [2] * 2)
    for path in (root / "metrics/predictions").rglob("*.parquet"):
        found = read_predictions(path)
        write_predictions(path, dataclasses.replace(found, labels=labels))
    scores = read_results(root, arms=ARMS, seeds=SEEDS, part_truth=True, sources=OWN).scores
    scale = scores.groupby("protocol")[["largest_class", "chance", "image"]].first()
    assert scale.loc["knn_accuracy"].tolist() == pytest.approx([6 / 12, 1 / 3, 1 / 12])
    always = class_accuracy(np.zeros(12, dtype=int), labels)
    one_more = class_accuracy(np.array([0] * 11 + [2]), labels) - always
    assert scale.loc["linear_class_accuracy"].tolist() == pytest.approx([always, 1 / 3, one_more])


def test_read_results__the_floor_of_segmentation_is_measured_and_may_not_be_missing(root):
    source = Source("segment/tiny", "segment", "tiny/")
    write_metrics_of(root, ARMS, SEEDS, sources=[source])
    options = {"arms": ARMS, "seeds": SEEDS, "part_truth": False, "sources": [source]}
    results = read_results(root, **options)
    floors = results.scores.groupby("protocol")["largest_class"].first()
    assert floors.to_dict() == {"tiny/linear_miou": 0.15, "tiny/linear_pixel_accuracy": 0.55}
    assert results.finetuning.empty and not results.predictions["mae", 0]
    for path in (root / "metrics/segment/tiny").iterdir():
        metrics = read_json(path)
        del metrics["floor_miou"]
        write_json(path, metrics)
    with pytest.raises(ValueError, match="metrics/segment/tiny: floor_miou is missing; run `dvc repro` again"):
        read_results(root, **options)


def test_read_results__validation_losses_have_a_mean_and_an_error_over_seeds(root):
    found = read_results(root, arms=ARMS, seeds=SEEDS, part_truth=True, sources=()).val_losses
    for arm in ARMS:
        one, two = (read_json(root / f"metrics/pretrain/{arm}-{seed}.json")["val_loss"] for seed in SEEDS)
        assert found.loc[arm].tolist() == pytest.approx([(one + two) / 2, abs(one - two) / 2])


def test_curves_csv__has_a_line_a_logged_step_and_empty_cells_where_nothing_was_logged(root):
    results = read_results(root, arms=ARMS, seeds=SEEDS, part_truth=True, sources=OWN)
    rows = list(csv.DictReader(curves_csv(results).splitlines()))
    assert list(rows[0]) == ["arm", "seed", "step", *CURVES]
    assert len(rows) == len(results.pretraining)
    assert all((row["alpha"] == "") == (row["arm"] == "mae") for row in rows)
    assert [row["step"] for row in rows[:8] if row["rankme"]] == ["4", "8"]
