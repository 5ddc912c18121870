"""Trivial part labels that learned ones must beat.

N test and M training images, (gh, gw) patch grid, F features of a patch.
"""

import numpy as np
from sklearn.cluster import KMeans

STARTS = 3


def cluster_labels(train: np.ndarray, test: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Labels (N, gh, gw) uint8 of the patches `test` (N, gh, gw, F) by k-means on `train` (M, gh, gw, F).

    Features: a patch's place, mean colour or token. One clustering for the whole set gives a label the same meaning in every
    image.
    """
    model = KMeans(count, n_init=STARTS, random_state=seed).fit(
        np.ascontiguousarray(train).reshape(-1, train.shape[-1])
    )
    labels: np.ndarray = model.predict(np.ascontiguousarray(test).reshape(-1, test.shape[-1]))
    return labels.reshape(test.shape[:3]).astype(np.uint8)


def random_labels(shape: tuple[int, ...], count: int, *, seed: int) -> np.ndarray:
    """Labels of `shape`, uint8, uniform over 0..count-1."""
    return np.random.default_rng(seed).integers(0, count, shape, dtype=np.uint8)
