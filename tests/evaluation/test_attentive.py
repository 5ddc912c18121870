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
    (tokens, labels), (asked, truth) = toy(240, 0), toy(120, 1)
    means = {split: some.float().mean(dim=1).numpy() for split, some in (("train", tokens), ("val", asked))}
    linear = fit_linear_probe(means, {"train": labels, "val": truth}, penalties=[0.3], max_iterations=200)
    passes = []
    found = fit_attentive_probe(tokens, labels, linear, heads=HEADS, max_iterations=300, advance=passes.append)
    return tokens, labels, asked, truth, linear, found, passes


def objective(vector, tokens, labels, linear):
    """The mean loss in NumPy, float64, from its definition; vector: queries (H, D), then weights (C, D + 1)."""
    queries, weights = np.split(vector, [HEADS * WIDTH])
    queries, weights = queries.reshape(HEADS, WIDTH), weights.reshape(CLASSES, WIDTH + 1)
    standard = (tokens.double().numpy() - linear.mean) / linear.std
    attention = softmax(np.einsum("nld,hd->nlh", standard, queries), axis=1)
    size = WIDTH // HEADS
    pooled = [
        np.einsum("nl,nld->nd", attention[..., head], standard[..., head * size : (head + 1) * size])
        for head in range(HEADS)
    ]
    scores = np.concatenate(pooled, axis=1) @ weights[:, :-1].T + weights[:, -1]
    losses = logsumexp(scores, axis=1) - scores[np.arange(len(labels)), labels]
    size_of = np.square(weights[:, :-1]).sum() + np.square(queries).sum()
    return (losses.sum() + size_of / (2 * linear.penalty)) / len(labels)


def as_vector(found):
    return np.concatenate([found.queries.double().numpy().ravel(), found.weights.double().numpy().ravel()])


def test_fit_attentive_probe__sees_what_the_mean_hides(fitted):
    _, _, asked, truth, linear, found, _ = fitted
    of_means = np.mean(linear(asked.float().mean(dim=1).numpy()) == truth)
    assert of_means < 0.65
    assert np.mean(found(asked) == truth) > of_means + 0.2


def test_fit_attentive_probe__begins_at_the_linear_probe_and_ends_at_the_optimum_of_the_loss(fitted):
    tokens, labels, _, _, linear, found, _ = fitted
    start = np.concatenate([np.zeros(HEADS * WIDTH), linear.weights.double().numpy().ravel()])
    theirs = minimize(objective, start, args=(tokens, labels, linear), method="L-BFGS-B", options={"maxfun": 40_000})
    mine = objective(as_vector(found), tokens, labels, linear)
    assert mine < objective(start, tokens, labels, linear)
    assert mine == pytest.approx(theirs.fun, abs=3e-4)


def test_attentive_probe__with_queries_of_zero_is_the_linear_probe(fitted):
    _tokens, _, asked, _, linear, _found, _ = fitted
    still = attentive.AttentiveProbe(
        torch.from_numpy(linear.mean), torch.from_numpy(linear.std), torch.zeros(HEADS, WIDTH), linear.weights.float()
    )
    assert np.array_equal(still(asked), linear(asked.float().mean(dim=1).numpy()))


def test_fit_attentive_probe__is_the_same_however_many_tokens_are_in_memory_and_shows_each_pass(fitted, monkeypatch):
    tokens, labels, _, _, linear, found, passes = fitted
    monkeypatch.setattr(attentive, "ROWS", 50)
    other = fit_attentive_probe(tokens, labels, linear, heads=HEADS, max_iterations=300)
    first, second = (objective(as_vector(one), tokens, labels, linear) for one in (found, other))
    assert first == pytest.approx(second, abs=1e-4)
    assert passes[-1] == 1 and set(passes[:-1]) == {0}
