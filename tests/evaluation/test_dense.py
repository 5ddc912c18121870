import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score

from config.params import load_params
from evaluation.dense import dense_metrics

CPU = torch.device("cpu")


def group(**values):
    return load_params().probe.model_copy(update={"penalties": [1.0], "max_iterations": 200, **values})


def toy(counts, *, noise=1.0, seed=0):
    """Truth (n, L) of 0 to 3, mostly 0, and tokens that show it under noise."""
    draw = np.random.default_rng(seed)
    truth = {
        split: draw.choice(4, (count, 9), p=[0.6, 0.2, 0.1, 0.1]).astype(np.uint8) for split, count in counts.items()
    }
    tokens = {
        split: torch.from_numpy(np.eye(4)[labels] + noise * draw.normal(size=(*labels.shape, 4))).half()
        for split, labels in truth.items()
    }
    return tokens, truth


def test_dense_metrics__are_those_of_scikit_learn():
    tokens, truth = toy({"train": 200, "test": 150}, noise=0.6)
    found = dense_metrics(tokens, truth, group(), seed=0, device=CPU)
    fitted = tokens["train"][:180].float().numpy().reshape(-1, 4)
    mean, std = fitted.mean(axis=0), fitted.std(axis=0)
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit((fitted - mean) / std, truth["train"][:180].ravel())
    predicted = model.predict((tokens["test"].float().numpy().reshape(-1, 4) - mean) / std)
    assert found["dense_miou"] == pytest.approx(
        jaccard_score(truth["test"].ravel(), predicted, average="macro"), abs=2e-3
    )
    background = np.zeros(truth["test"].size)
    expected = jaccard_score(truth["test"].ravel(), background, average="macro", zero_division=0)
    assert found["dense_floor"] == pytest.approx(expected) and found["dense_images"] == 150


def test_dense_metrics__a_patch_without_a_label_takes_no_part():
    tokens, truth = toy({"train": 100, "test": 80}, noise=0.3)
    whole = dense_metrics(tokens, truth, group(), seed=0, device=CPU)
    for split in truth:
        extra = torch.full((len(truth[split]), 2, 4), 50.0).half()
        tokens[split] = torch.cat([tokens[split], extra], dim=1)
        truth[split] = np.pad(truth[split], ((0, 0), (0, 2)), constant_values=255)
    assert dense_metrics(tokens, truth, group(), seed=0, device=CPU) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize(("split", "value"), [("train", 0), ("train", 255), ("test", 255)])
def test_dense_metrics__are_none_where_nothing_can_be_learned_or_asked(split, value):
    tokens, truth = toy({"train": 20, "test": 20})
    truth[split][:] = value
    assert dense_metrics(tokens, truth, group(), seed=0, device=CPU) == {}


def test_dense_metrics__of_few_patches_are_drawn_by_the_seed_alone(monkeypatch):
    monkeypatch.setattr("evaluation.dense.PATCHES", 40)
    tokens, truth = toy({"train": 100, "test": 80})
    scores = [dense_metrics(tokens, truth, group(), seed=seed, device=CPU)["dense_miou"] for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]
