import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from evaluation.confusion import class_iou, floor_metrics, segmentation_metrics


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


def test_floor_metrics__are_those_of_calling_every_pixel_the_most_frequent_class_of_training():
    truth = np.repeat([0, 1, 2], [10, 30, 60])
    said = np.ones_like(truth)
    floor = floor_metrics(np.array([5, 9, 7]), np.bincount(truth))
    assert floor["floor_pixel_accuracy"] == pytest.approx(accuracy_score(truth, said))
    assert floor["floor_miou"] == pytest.approx(jaccard_score(truth, said, average="macro"))


def test_floor_metrics__of_a_class_that_test_lacks_are_zero():
    assert floor_metrics(np.array([5, 9]), np.array([4, 0])) == {"floor_miou": 0, "floor_pixel_accuracy": 0}
