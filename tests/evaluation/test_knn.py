"""Laws of evaluation/knn.py, and scikit-learn as the oracle."""

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

import evaluation.knn
from evaluation.knn import knn_predict


def cloud(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    centres = torch.randn(4, 8, generator=torch.Generator().manual_seed(99))
    return centres[labels] + torch.randn(count, 8, generator=source), labels


def test_knn_predict__equals_scikit_learn():
    (train, labels), (test, _) = cloud(200, 0), cloud(90, 1)
    weights = lambda distances: np.exp((1 - distances) / 0.07)  # noqa: E731
    oracle = KNeighborsClassifier(7, weights=weights, metric="cosine", algorithm="brute").fit(train, labels)
    predicted = knn_predict(train, labels, test, k=7, temperature=0.07, num_classes=4)
    assert predicted.tolist() == oracle.predict(test).tolist()


def test_knn_predict__chunks_change_nothing(monkeypatch):
    (train, labels), (test, _) = cloud(50, 0), cloud(33, 1)
    whole = knn_predict(train, labels, test, k=5, temperature=0.1, num_classes=4)
    monkeypatch.setattr(evaluation.knn, "CHUNK", 7)
    assert torch.equal(whole, knn_predict(train, labels, test, k=5, temperature=0.1, num_classes=4))


def test_knn_predict__an_image_is_its_own_neighbour():
    features, labels = cloud(40, 0)
    assert torch.equal(knn_predict(features, labels, 3 * features, k=1, temperature=0.07, num_classes=4), labels)


def test_knn_predict__few_images_and_small_temperature():
    features, labels = torch.eye(3), torch.tensor([2, 0, 1])
    predicted = knn_predict(features, labels, features + 0.1, k=20, temperature=1e-3, num_classes=3)
    assert predicted.tolist() == [2, 0, 1]


def test_knn_predict__leaving_one_out_is_a_gallery_without_it(monkeypatch):
    features, labels = cloud(30, 0)
    monkeypatch.setattr(evaluation.knn, "CHUNK", 7)
    options = {"k": 5, "temperature": 0.1, "num_classes": 4}
    found = knn_predict(features, labels, features, **options, leave_one_out=True)
    for row in range(30):
        others = torch.arange(30) != row
        expected = knn_predict(features[others], labels[others], features[row : row + 1], **options)
        assert found[row] == expected[0]
