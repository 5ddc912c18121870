import numpy as np
import torch

from training.randomness import batch_indices, generator, seed_of, steps_of


def test_batch_indices__every_image_comes_once_an_epoch():
    batches = np.concatenate([batch_indices(10, 4, step, 0, "order") for step in range(5)])
    assert sorted(batches[:10]) == sorted(batches[10:]) == list(range(10))
    assert not np.array_equal(batches[:10], batches[10:])


def test_batch_indices__a_batch_may_be_larger_than_the_set():
    assert np.bincount(batch_indices(3, 9, 2, 0, "order")).tolist() == [3, 3, 3]


def test_batch_indices__depends_on_the_seed():
    assert not np.array_equal(batch_indices(100, 50, 0, 0, "order"), batch_indices(100, 50, 0, 1, "order"))


def test_generator__streams_of_different_keys_differ():
    keys = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a/1"), (0, "a", 11)]
    draws = {float(torch.rand((), generator=generator(*key), dtype=torch.float64)) for key in keys}
    assert len(draws) == len(keys) - 1  # (0, "a", 1) and (0, "a/1") spell the same key
    assert seed_of(0, "a", 1) == seed_of(0, "a/1")


def test_steps_of__is_at_least_one():
    assert steps_of(0.001, 10, 64) == 1
    assert steps_of(10, 640, 64) == 100
