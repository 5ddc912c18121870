import numpy as np
import pytest

from training.accuracy import accuracy, class_accuracy
from training.linear import fit_linear_probe


def blobs(count, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    return (np.eye(3)[labels] * 4 + rng.normal(scale=spread, size=(count, 3))).astype(np.float32), labels


def test_fit_linear_probe__separates_blobs_and_chooses_on_val():
    inputs, labels = {}, {}
    for seed, split in enumerate(("train", "val", "test")):
        inputs[split], labels[split] = blobs(120, seed)
    predicted, penalty = fit_linear_probe(inputs, labels, penalties=[1e-6, 1.0], max_iterations=100)
    assert accuracy(predicted, labels["test"]) > 0.95
    assert penalty == 1.0


def test_fit_linear_probe__never_looks_at_test_labels():
    inputs, labels = {}, {}
    for seed, split in enumerate(("train", "val", "test")):
        inputs[split], labels[split] = blobs(60, seed)
    first = fit_linear_probe(inputs, labels, penalties=[0.1, 1.0], max_iterations=50)
    labels["test"] = np.full(60, -1)
    second = fit_linear_probe(inputs, labels, penalties=[0.1, 1.0], max_iterations=50)
    assert np.array_equal(first[0], second[0])
    assert first[1] == second[1]


def test_class_accuracy__weighs_classes_equally():
    truth = np.array([0, 0, 0, 0, 1])
    predicted = np.array([0, 0, 0, 0, 0])
    assert accuracy(predicted, truth) == pytest.approx(0.8)
    assert class_accuracy(predicted, truth) == pytest.approx(0.5)
