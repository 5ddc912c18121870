import numpy as np
import pytest

from images.stream import ShuffledOrder


def order(group_sizes=(5, 3, 7, 1, 9, 4), window=10, key=(0, "order"), seed=0):
    sizes = np.array(group_sizes)
    storage = np.random.default_rng(seed).permutation(sizes.sum())
    return ShuffledOrder(storage, sizes, window=window, key=key)


@pytest.mark.parametrize("window", [1, 4, 10, 29, 1000])
def test_rows__every_image_once_an_epoch(window):
    found = order(window=window)
    for epoch in range(3):
        assert sorted(found.rows(29 * epoch, 29)) == list(range(29))
    assert not np.array_equal(found.rows(0, 29), found.rows(29, 29))


def test_rows__any_position_is_found_from_its_number_alone():
    whole = order().rows(0, 200)
    for first, count in ((0, 1), (7, 40), (28, 2), (29, 1), (150, 50), (3, 100)):
        assert np.array_equal(order().rows(first, count), whole[first : first + count])


def test_rows__a_window_that_holds_everything_does_not_depend_on_the_files():
    one, other = order(window=29), order((29,), window=1000, seed=5)
    assert np.array_equal(one.rows(0, 100), other.rows(0, 100))
    assert not np.array_equal(one.rows(0, 29), order(window=29, key=(1, "order")).rows(0, 29))


def test_rows__a_window_holds_whole_groups_and_two_windows_are_all_a_reader_keeps():
    sizes = np.full(100, 8)
    found = ShuffledOrder(np.arange(800), sizes, window=50, key=(0,))
    held, misses = [], 0
    for position in range(800):
        group = int(found.rows(position, 1)[0]) // 8
        misses += group not in held
        held = [group, *(other for other in held if other != group)][: found.groups_held]
    assert misses == 100, "no group is read twice"
    first = {int(row) // 8 for row in found.rows(0, 56)}
    assert len(first) == 7, "56 images are seven whole groups"
    assert found.groups_held < 20


def test_rows__within_a_window_every_order_is_possible():
    seen = {tuple(ShuffledOrder(np.arange(3), np.array([3]), window=3, key=(seed,)).rows(0, 3)) for seed in range(100)}
    assert len(seen) == 6


def test_order__of_nothing_is_refused():
    with pytest.raises(ValueError, match="no images to train on"):
        ShuffledOrder(np.empty(0, np.int64), np.empty(0, np.int64), window=3, key=(0,))
