import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from evaluation import attentive
from evaluation.attentive import fit_attentive_probe
from evaluation.linear import fit_linear_probe

CLASSES, LENGTH, WIDTH, HEADS = 3, 6, 4, 2


def toy(count, seed):
    """Tokens (N, L, D) of which one, told by its first feature, shows the class; the others show any class."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    shown = draw.integers(0, CLASSES, (count, LENGTH))
    place = draw.integers(0, LENGTH, count)
    shown[np.arange(count), place] = labels
    tokens = np.zeros((count, LENGTH, WIDTH))
    tokens[..., 1:] = np.eye(CLASSES)[shown]
    tokens[np.arange(count), place, 0] = 1
    tokens += 0.2 * draw.normal(size=tokens.shape)
    return torch.from_numpy(tokens).half(), labels


@pytest.fixture(scope="module")
def fitted():
    tokens, labels = {}, {}
    for seed, (split, count) in enumerate({"train": 240, "val": 120, "test": 120}.items()):
        tokens[split], labels[split] = toy(count, seed)
    passes = []
    found = fit_attentive_probe(tokens, labels, penalties=[0.3], heads=HEADS, advance=passes.append)
    return tokens, labels, found, passes


def units(tokens):
    """Mean and standard deviation of the images' means, and the whitening of the tokens, in NumPy."""
    means, flat = tokens.double().mean(dim=1).numpy(), tokens.double().flatten(0, 1).numpy()
    values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    return means.mean(axis=0), means.std(axis=0), vectors / np.sqrt(values) @ vectors.T


def objective(vector, tokens, labels, penalty):
    """The mean loss in NumPy, float64, from its definition; vector: queries (H, D), then weights (C, D + 1)."""
    mean, std, whiten = units(tokens)
    queries, weights = np.split(vector, [HEADS * WIDTH])
    queries, weights = queries.reshape(HEADS, WIDTH), weights.reshape(CLASSES, WIDTH + 1)
    plain = tokens.double().numpy()
    attention = softmax(np.einsum("nld,hd->nlh", plain, queries @ whiten), axis=1)
    size = WIDTH // HEADS
    pooled = [
        np.einsum("nl,nld->nd", attention[..., head], plain[..., head * size : (head + 1) * size])
        for head in range(HEADS)
    ]
    scores = (np.concatenate(pooled, axis=1) - mean) / std @ weights[:, :-1].T + weights[:, -1]
    losses = logsumexp(scores, axis=1) - scores[np.arange(len(labels)), labels]
    square = np.square(weights[:, :-1]).sum() + np.square(queries).sum()
    return (losses.sum() + square / (2 * penalty)) / len(labels)


def as_vector(found, tokens):
    queries = found.queries.double().numpy() @ np.linalg.inv(units(tokens)[2])
    return np.concatenate([queries.ravel(), found.weights.double().numpy().ravel()])


def test_fit_attentive_probe__sees_what_the_mean_hides(fitted):
    tokens, labels, found, _ = fitted
    means = {split: some.float().mean(dim=1).numpy() for split, some in tokens.items()}
    linear = fit_linear_probe(means, labels, penalties=[0.3], max_iterations=200)
    of_means = np.mean(linear(means["test"]) == labels["test"])
    assert of_means < 0.65
    assert np.mean(found(tokens["test"]) == labels["test"]) > of_means + 0.2


def test_fit_attentive_probe__ends_near_the_optimum_of_the_loss(fitted, monkeypatch):
    tokens, labels, _, _ = fitted
    monkeypatch.setattr(attentive, "ITERATIONS", 300)
    found = fit_attentive_probe(tokens, labels, penalties=[0.3], heads=HEADS)
    mine = as_vector(found, tokens["train"])
    arguments = tokens["train"], labels["train"], 0.3
    # Another solver, in double precision, finds a hundredth of a nat more from there or from the same start.
    for start in (mine, np.zeros_like(mine)):
        theirs = minimize(objective, start, args=arguments, method="L-BFGS-B", options={"maxfun": 20_000})
        assert objective(mine, *arguments) < theirs.fun + 0.01 < 0.5 * objective(np.zeros_like(mine), *arguments)


def test_fit_attentive_probe__with_queries_of_zero_is_the_linear_probe(fitted, monkeypatch):
    tokens, labels, _, _ = fitted
    means = {split: some.float().mean(dim=1).numpy() for split, some in tokens.items()}
    linear = fit_linear_probe(means, labels, penalties=[1.0], max_iterations=200)
    still = attentive.AttentiveProbe(
        torch.zeros(HEADS, WIDTH), torch.from_numpy(linear.mean), torch.from_numpy(linear.std), linear.weights.float()
    )
    assert np.array_equal(still(tokens["test"]), linear(means["test"]))


def test_fit_attentive_probe__chooses_its_penalty_on_val(fitted):
    tokens, labels, found, _ = fitted
    both = fit_attentive_probe(tokens, labels, penalties=[1e-6, 0.3], heads=HEADS)
    assert np.mean(both(tokens["test"]) == labels["test"]) == pytest.approx(
        np.mean(found(tokens["test"]) == labels["test"]), abs=0.1
    )
    alone = {split: values for split, values in tokens.items() if split != "test"}
    again = fit_attentive_probe(alone, labels, penalties=[1e-6, 0.3], heads=HEADS)
    assert torch.equal(again.weights, both.weights), "it never looks at test"


def test_fit_attentive_probe__is_the_same_however_many_tokens_are_in_memory_and_shows_each_pass(fitted, monkeypatch):
    tokens, labels, found, passes = fitted
    monkeypatch.setattr(attentive, "ROWS", 50)
    other = fit_attentive_probe(tokens, labels, penalties=[0.3], heads=HEADS)
    torch.testing.assert_close(other.weights, found.weights, rtol=0.02, atol=0.02)
    assert passes[-1] == 1 and set(passes[:-1]) == {0}


def test_whitening__makes_the_features_of_tokens_alike(fitted):
    tokens = fitted[0]["train"]
    flat = tokens.double().flatten(0, 1) @ attentive.whitening(tokens, "cpu")
    assert np.cov(flat.numpy().T) == pytest.approx(np.eye(WIDTH), abs=0.01)
