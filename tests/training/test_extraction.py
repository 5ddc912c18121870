"""The bound of ids below which patch tokens are stored."""

import numpy as np
import pytest

from training.extraction import token_bound


def ids_of(count, seed=0):
    return np.sort(np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64))


@pytest.mark.parametrize("count", [1, 2, 5, 12, 400, 1999])
@pytest.mark.parametrize("seed", range(5))
def test_token_bound__is_above_the_smallest_ids_and_by_a_quarter_at_most(count, seed):
    ids = ids_of(2000, seed)
    bound = token_bound(ids, count)
    assert int(ids[count - 1]) < bound <= int(ids[count - 1]) * 5 / 4 + 1


@pytest.mark.parametrize("count", [0, 1, 2000])
def test_token_bound__takes_all_images_where_part_learning_does(count):
    ids = ids_of(count)
    assert token_bound(ids, 2000) == 2**64
    assert token_bound(np.array([0, 2**64 - 1], dtype=np.uint64), 1) == 1


def test_token_bound__seldom_moves_while_images_are_added():
    """From twice the images to eight times: it passes eight bounds, four between one power of two and the next."""
    ids = np.random.default_rng(0).permutation(ids_of(8000))
    bounds = [token_bound(np.sort(ids[:some]), 1000) for some in range(2000, 8001, 20)]
    assert bounds == sorted(bounds, reverse=True)
    assert len(set(bounds)) <= 10
