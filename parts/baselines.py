"""What part labels have to beat: labels from anything but learning."""

import numpy as np
from sklearn.cluster import KMeans

STARTS = 3


def cluster_labels(train: np.ndarray, test: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Labels (N, gh, gw) uint8 of patches described by test (N, gh, gw, F): k-means fitted on train (M, gh, gw, F).

    F features are a patch's place, its mean colour, or its token. One clustering serves the whole set, so that a label
    means the same in every image.
    """
    model = KMeans(count, n_init=STARTS, random_state=seed).fit(
        np.ascontiguousarray(train).reshape(-1, train.shape[-1])
    )
    labels: np.ndarray = model.predict(np.ascontiguousarray(test).reshape(-1, test.shape[-1]))
    return labels.reshape(test.shape[:3]).astype(np.uint8)


def random_labels(shape: tuple[int, ...], count: int, *, seed: int) -> np.ndarray:
    """Labels of `shape`, each of 0..count-1 with the same chance: uint8."""
    return np.random.default_rng(seed).integers(0, count, shape, dtype=np.uint8)
