import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from evaluation.segmenting import class_iou, segmentation_metrics


def test_segmentation_metrics__are_scikit_learns():
    draw = np.random.default_rng(0)
    truth = draw.choice([0, 1, 3], 500)
    said = np.where(draw.random(500) < 0.6, truth, draw.integers(0, 5, 500))
    confusion = np.zeros((5, 5), dtype=int)
    np.add.at(confusion, (truth, said), 1)
    metrics = segmentation_metrics(confusion)
    assert metrics["pixel_accuracy"] == pytest.approx(accuracy_score(truth, said))
    expected = jaccard_score(truth, said, labels=[0, 1, 3], average=None)
    assert list(class_iou(confusion)) == [0, 1, 3], "classes that the truth lacks are left out"
    assert list(class_iou(confusion).values()) == pytest.approx(expected)
    assert metrics["miou"] == pytest.approx(expected.mean())
