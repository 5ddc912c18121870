import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from evaluation.accuracy import accuracy, class_accuracy
from evaluation.linear import classify, few_of_each, fit_linear_probe, fit_logistic


def blobs(count, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    return (np.eye(3)[labels] * 4 + rng.normal(scale=spread, size=(count, 3))).astype(np.float32), labels


def test_fit_linear_probe__separates_blobs_and_chooses_on_val():
    inputs, labels = {}, {}
    for seed, split in enumerate(("train", "val", "test")):
        inputs[split], labels[split] = blobs(120, seed)
    found = fit_linear_probe(inputs, labels, penalties=[1e-6, 1.0], max_iterations=100)
    assert accuracy(found(inputs["test"]), labels["test"]) > 0.95
    assert found.penalty == 1.0


def test_fit_linear_probe__never_looks_at_test():
    inputs, labels = {}, {}
    for seed, split in enumerate(("train", "val", "test")):
        inputs[split], labels[split] = blobs(60, seed)
    first = fit_linear_probe(inputs, labels, penalties=[0.1, 1.0], max_iterations=50)
    del labels["test"], inputs["test"]
    second = fit_linear_probe(inputs, labels, penalties=[0.1, 1.0], max_iterations=50)
    assert torch.equal(first.weights, second.weights)
    assert first.penalty == second.penalty


def test_few_of_each__is_a_share_of_every_class_and_depends_on_the_generator_alone():
    labels = np.repeat([0, 1, 2], [200, 50, 3])
    rows = few_of_each(labels, 0.1, torch.Generator().manual_seed(0))
    assert np.bincount(labels[rows]).tolist() == [20, 5, 1]
    assert len(set(rows.tolist())) == 26
    assert np.array_equal(rows, few_of_each(labels, 0.1, torch.Generator().manual_seed(0)))
    assert not np.array_equal(rows, few_of_each(labels, 0.1, torch.Generator().manual_seed(1)))
    seen = {int(row) for seed in range(200) for row in few_of_each(labels, 0.1, torch.Generator().manual_seed(seed))}
    assert len(seen) == 253, "every image has its turn"


def test_class_accuracy__weighs_classes_equally():
    truth = np.array([0, 0, 0, 0, 1])
    predicted = np.array([0, 0, 0, 0, 0])
    assert accuracy(predicted, truth) == pytest.approx(0.8)
    assert class_accuracy(predicted, truth) == pytest.approx(0.5)


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_fit_logistic__is_scikit_learns(penalty):
    features, labels = blobs(150, 0, spread=3.0)
    features = np.concatenate([features, np.random.default_rng(1).normal(size=(150, 5))], axis=1).astype(np.float64)
    start = torch.zeros(3, 9, dtype=torch.float64)
    found = fit_logistic(
        torch.from_numpy(features), torch.from_numpy(labels), start, penalty=penalty, max_iterations=500
    )
    theirs = LogisticRegression(C=penalty, tol=1e-8, max_iter=5000).fit(features, labels)
    probabilities = (torch.from_numpy(features) @ found[:, :-1].T + found[:, -1]).softmax(dim=1).numpy()
    assert np.abs(probabilities - theirs.predict_proba(features)).max() < 2e-3
    assert np.array_equal(classify(torch.from_numpy(features), found), theirs.predict(features))


def test_fit_logistic__is_fast_where_features_say_nearly_the_same():
    mixing = np.random.default_rng(3).normal(size=(12, 40)) * np.logspace(0, -3, 12)[:, None]
    features, labels = blobs(400, 0, spread=3.0)
    noise = np.random.default_rng(4).normal(size=(400, 9))
    features = np.concatenate([features, noise], axis=1) @ mixing
    features = StandardScaler().fit_transform(features)
    passes = []
    found = fit_logistic(
        torch.from_numpy(features),
        torch.from_numpy(labels),
        torch.zeros(3, 41, dtype=torch.float64),
        penalty=1000.0,
        max_iterations=500,
        advance=passes.append,
    )
    theirs = LogisticRegression(C=1000.0, tol=1e-10, max_iter=20000, solver="newton-cg").fit(features, labels)

    def loss(weights, intercept):
        logs = (torch.from_numpy(features) @ weights.T + intercept).log_softmax(dim=1)
        return float(F.nll_loss(logs, torch.from_numpy(labels)) + weights.square().sum() / 2000 / len(labels))

    best = loss(torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_))
    assert loss(found[:, :-1], found[:, -1]) < best + 2e-5
    assert len(passes) < 60


def test_fit_linear_probe__chooses_and_predicts_as_scikit_learn():
    inputs, labels = {}, {}
    for seed, split in enumerate(("train", "val", "test")):
        inputs[split], labels[split] = blobs(200, seed, spread=4.0)
    penalties = [0.001, 0.1, 10.0]
    found = fit_linear_probe(inputs, labels, penalties=penalties, max_iterations=500)
    predicted, chosen = found(inputs["test"]), found.penalty
    scaler = StandardScaler().fit(inputs["train"])
    models = [
        LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(scaler.transform(inputs["train"]), labels["train"])
        for c in penalties
    ]
    scores = [model.score(scaler.transform(inputs["val"]), labels["val"]) for model in models]
    best = int(np.argmax(scores))
    assert chosen == penalties[best]
    assert np.mean(predicted == models[best].predict(scaler.transform(inputs["test"]))) > 0.99


def test_fit_logistic__is_the_same_however_many_scores_are_in_memory(monkeypatch):
    features, labels = (torch.from_numpy(values) for values in blobs(150, 0, spread=3.0))
    start = torch.zeros(3, 4, dtype=torch.float64)
    found = [fit_logistic(features.double(), labels, start, penalty=1.0, max_iterations=200)]
    for rows in (149, 40, 1):
        monkeypatch.setattr("evaluation.linear.ROWS", rows)
        found.append(fit_logistic(features.double(), labels, start, penalty=1.0, max_iterations=200))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-6)
