import math

import numpy as np
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
    paired_difference,
    student_t_quantile,
    verdict,
)

shares = st.floats(0, 1)
several = st.lists(shares, min_size=2, max_size=9)


@given(several, st.floats(0.5, 0.99))
def test_estimate__agrees_with_scipy(values, confidence):
    found = estimate(values, confidence=confidence)
    assert found.count == len(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert found.se == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), abs=1e-12)
    if found.se > 1e-9:
        low, high = stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)


def test_student_t_quantile__of_two_seeds_is_the_wide_one_of_the_tables():
    assert student_t_quantile(0.975, 1) == pytest.approx(12.706, abs=5e-4)


def test_estimate__one_value_has_no_error_and_no_interval():
    found = estimate([0.25], confidence=0.95)
    assert (found.mean, found.se, found.low, found.high, found.count) == (0.25, None, None, None, 1)


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_estimate__without_finite_values_is_refused(values):
    with pytest.raises(ValueError, match="all finite"):
        estimate(values, confidence=0.95)


@given(several, st.floats(-0.5, 0.5))
def test_paired_difference__of_a_constant_shift_is_the_shift_without_error(values, shift):
    found = paired_difference([value + shift for value in values], values, confidence=0.95)
    assert found.mean == pytest.approx(shift, abs=1e-12)
    assert found.se == pytest.approx(0, abs=1e-12)


def test_paired_difference__drops_what_seeds_share():
    seeds = np.array([0.1, 0.5, 0.9, 0.3, 0.7])
    mine, theirs = seeds + np.array([0.02, 0.03, 0.02, 0.03, 0.02]), seeds
    assert paired_difference(mine, theirs, confidence=0.95).se < 0.1 * estimate(mine, confidence=0.95).se


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=ENOUGH_SEEDS - 1))
def test_verdict__with_few_seeds_is_at_most_a_direction(pairs):
    mine, theirs = zip(*pairs, strict=True)
    assert verdict(mine, theirs, confidence=0.95) in (DIRECTION_HIGHER, DIRECTION_LOWER, NO_DIFFERENCE, ONE_SEED)


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=9))
def test_verdict__turns_round_with_the_arms(pairs):
    mine, theirs = zip(*pairs, strict=True)
    opposite = {HIGHER: LOWER, LOWER: HIGHER, DIRECTION_HIGHER: DIRECTION_LOWER, DIRECTION_LOWER: DIRECTION_HIGHER}
    word = verdict(mine, theirs, confidence=0.95)
    assert verdict(theirs, mine, confidence=0.95) == opposite.get(word, word)


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
    assert verdict(differences, [0.0] * len(differences), confidence=0.95) == word


def test_verdict__cries_wolf_in_one_minus_confidence_of_the_cases():
    rng = np.random.default_rng(0)
    words = [verdict(rng.normal(size=5), rng.normal(size=5), confidence=0.9) for _ in range(2000)]
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
    import numpy as np
    from scipy.stats import bootstrap

    values = np.random.default_rng(3).choice([-1.0, 0.0, 0.0, 0.5, 1.0], 300)
    found = bootstrap_interval(values, confidence=0.9, resamples=4000)
    theirs = bootstrap((values,), np.mean, confidence_level=0.9, n_resamples=4000, method="percentile", rng=1)
    assert np.allclose(found, theirs.confidence_interval, atol=0.01)
    assert found == bootstrap_interval(values, confidence=0.9, resamples=4000)
