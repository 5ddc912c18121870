import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reports.statistics import (
    DIRECTION_HIGHER,
    DIRECTION_LOWER,
    ENOUGH_SEEDS,
    HIGHER,
    LOWER,
    NO_DIFFERENCE,
    ONE_SEED,
    accuracy_error,
    bootstrap_interval,
    chance_of_agreement,
    estimate,
    verdict,
)

shares = st.floats(0, 1)
several = st.lists(shares, min_size=2, max_size=9)


def estimate_of(values, confidence=0.95):
    """The estimate of one row."""
    return estimate(pd.DataFrame([values]), confidence=confidence).loc[0]


def word_of(mine, theirs, confidence=0.95, image=0.0):
    """The verdict on an arm and a baseline, a number a seed; any difference is worth many images."""
    differences = np.subtract(mine, theirs)
    over = estimate_of(differences, confidence)
    return verdict(differences, low=over["low"], high=over["high"], image=image)


@given(several, st.floats(0.5, 0.99))
def test_estimate__agrees_with_scipys_test_of_one_sample(values, confidence):
    found = estimate_of(values, confidence)
    assert found["mean"] == pytest.approx(math.fsum(values) / len(values), abs=1e-12)
    assert found["se"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), abs=1e-12)
    if found["se"] > 1e-9:
        oracle = stats.ttest_1samp(values, 0).confidence_interval(confidence)
        assert (found["low"], found["high"]) == pytest.approx(tuple(oracle), rel=1e-6, abs=1e-9)


def test_estimate__of_two_seeds_has_the_wide_interval_of_the_tables():
    found = estimate_of([0.4, 0.6])
    assert (found["high"] - found["mean"]) / found["se"] == pytest.approx(12.706, abs=5e-4)


def test_estimate__of_one_seed_has_no_error_and_no_interval():
    found = estimate_of([0.25])
    assert found["mean"] == 0.25 and found[["se", "low", "high"]].isna().all()


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_estimate__without_finite_values_is_refused(values):
    with pytest.raises(ValueError, match="all finite"):
        estimate_of(values)


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=ENOUGH_SEEDS - 1))
def test_verdict__with_few_seeds_is_at_most_a_direction(pairs):
    assert word_of(*zip(*pairs, strict=True)) in (DIRECTION_HIGHER, DIRECTION_LOWER, NO_DIFFERENCE, ONE_SEED)


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=9))
def test_verdict__turns_round_with_the_arms(pairs):
    mine, theirs = zip(*pairs, strict=True)
    opposite = {HIGHER: LOWER, LOWER: HIGHER, DIRECTION_HIGHER: DIRECTION_LOWER, DIRECTION_LOWER: DIRECTION_HIGHER}
    word = word_of(mine, theirs)
    assert word_of(theirs, mine) == opposite.get(word, word)


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([0.01], ONE_SEED),
        ([0.01, 0.3], DIRECTION_HIGHER),
        ([-0.01, -0.3], DIRECTION_LOWER),
        ([0.01, -0.3], NO_DIFFERENCE),
        ([0.01, 0.0], NO_DIFFERENCE),
        ([0.0] * 6, NO_DIFFERENCE),
        ([0.02, 0.021, 0.019, 0.02, 0.022], HIGHER),
        ([-0.02, -0.021, -0.019, -0.02, -0.022], LOWER),
        ([0.001, 0.09, 0.0001, 0.02, 0.0001], NO_DIFFERENCE),
    ],
)
def test_verdict__words(differences, word):
    assert word_of(differences, [0.0] * len(differences)) == word


@pytest.mark.parametrize("seeds", [2, ENOUGH_SEEDS])
def test_verdict__on_one_and_a_half_test_images_is_none_however_well_the_seeds_agree(seeds):
    image = 1 / 372
    for images, is_shown in ((0.5, False), (1, False), (1.5, False), (2, True)):
        words = {word_of([sign * images * image] * seeds, [0.0] * seeds, image=image) for sign in (1, -1)}
        assert (NO_DIFFERENCE not in words) == is_shown and len(words) == 1 + is_shown
    assert word_of([image, 2 * image], [0.0, 0.0], image=image) == NO_DIFFERENCE, "their mean is 1.5 images"


def test_verdict__is_wrong_in_one_minus_confidence_of_the_cases():
    rng = np.random.default_rng(0)
    differences = pd.DataFrame(rng.normal(size=(2000, 5)) - rng.normal(size=(2000, 5)))
    over = estimate(differences, confidence=0.9)
    words = [
        verdict(row, low=low, high=high, image=0.0)
        for row, low, high in zip(differences.to_numpy(), over["low"], over["high"], strict=True)
    ]
    assert 0.08 < np.mean([word != NO_DIFFERENCE for word in words]) < 0.12


def test_chance_of_agreement__is_that_of_coins():
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 4):
        signs = rng.integers(0, 2, (20000, seeds)).sum(axis=1)
        assert np.mean((signs == 0) | (signs == seeds)) == pytest.approx(1 / chance_of_agreement(seeds), abs=0.01)


def test_accuracy_error__is_the_spread_of_drawn_test_sets():
    drawn = np.random.default_rng(0).binomial(500, 0.7, 20000) / 500
    assert accuracy_error(0.7, 500) == pytest.approx(drawn.std(), rel=0.02)


def test_bootstrap_interval__is_scipys():
    values = np.random.default_rng(3).choice([-1.0, 0.0, 0.0, 0.5, 1.0], 300)
    found = bootstrap_interval(values, confidence=0.9, resamples=4000)
    theirs = stats.bootstrap((values,), np.mean, confidence_level=0.9, n_resamples=4000, method="percentile", rng=1)
    assert np.allclose(found, theirs.confidence_interval, atol=0.01)
    assert found == bootstrap_interval(values, confidence=0.9, resamples=4000)
