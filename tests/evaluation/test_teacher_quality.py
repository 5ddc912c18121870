import numpy as np
import pytest
from scipy import stats

from evaluation.teacher_quality import knn_metrics


def test_knn_metrics__difference_and_its_error_are_those_of_a_paired_test():
    draw = np.random.default_rng(0)
    trained, pixels = ((draw.random(40) < 0.5, draw.random(90) < 0.6) for _ in range(2))
    metrics = knn_metrics(trained, {"pixels": pixels})
    both = [np.concatenate(found).astype(float) for found in (trained, pixels)]
    oracle = stats.ttest_rel(*both)
    assert metrics["knn_above_pixels"] / metrics["knn_above_pixels_se"] == pytest.approx(oracle.statistic)
    assert metrics["knn_accuracy"] == trained[0].mean()
    assert metrics["knn_accuracy_pixels"] == pixels[0].mean()
    assert metrics["test_images"] == 40
    assert metrics["knn_above_images"] == 130
