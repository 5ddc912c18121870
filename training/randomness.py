"""Randomness and data order as pure functions of (seed, step): a resumed run is the unbroken run."""

import hashlib
from functools import lru_cache

import numpy as np
import torch


def seed_of(*key: int | str) -> int:
    """A 63-bit seed from a key such as (seed, "masks", step); distinct keys give independent streams."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A fresh generator for a key; it holds no state that would have to be saved."""
    return torch.Generator().manual_seed(seed_of(*key))


def batch_indices(count: int, batch_size: int, step: int, *key: int | str) -> np.ndarray:
    """Indices of the images of batch `step`: (batch_size,) int64 in 0..count-1, for a task that holds all images.

    The epochs' permutations are laid end to end and cut into batches: every batch is full, and every image comes once
    an epoch. `key` names the stream, for example (seed, "order"). Sets that are read from files go by
    `images.stream.ShuffledOrder`, which reads each file once an epoch.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(positions, count)
    indices = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        indices[chosen] = _permutation(count, seed_of(*key, "epoch", int(epoch)))[places[chosen]]
    return indices


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).permutation(count)


def steps_of(epochs: float, count: int, batch_size: int) -> int:
    """Epochs turned into optimiser steps, at least one."""
    return max(1, round(epochs * count / batch_size))
