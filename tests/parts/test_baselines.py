import numpy as np

from parts.baselines import cluster_labels, random_labels


def test_cluster_labels__one_label_for_one_kind_of_patch_in_every_image():
    draw = np.random.default_rng(0)
    kinds = draw.integers(0, 3, (12, 4, 4))
    features = (np.eye(3)[kinds] + 0.01 * draw.standard_normal((12, 4, 4, 3))).astype(np.float32)
    labels = cluster_labels(features[:6], features[6:], 3, seed=0)
    assert labels.shape == (6, 4, 4)
    assert labels.dtype == np.uint8
    assert len(np.unique(kinds[6:].ravel() * 3 + labels.ravel())) == 3


def test_random_labels__are_even_and_repeatable():
    labels = random_labels((100, 8, 8), 5, seed=1)
    assert np.array_equal(labels, random_labels((100, 8, 8), 5, seed=1))
    assert np.bincount(labels.ravel(), minlength=5).min() > 0.9 * labels.size / 5
