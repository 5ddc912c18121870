import pytest
import torch
from sklearn.cluster import KMeans

from parts.clustering import distances, k_means, whitening


def points(count=400, width=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=draw) @ torch.randn(width, width, generator=draw) + 3


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_whitening__gives_uncorrelated_components_of_variance_to_the_power(strength):
    x = points()
    matrix, offset = whitening(x, 4, strength)
    z = x @ matrix.T + offset
    covariance = torch.cov(z.T, correction=0)
    variances = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)[:4]
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(covariance, torch.diag(variances ** (1 - strength)), atol=1e-3, rtol=1e-3)


def test_whitening__refuses_more_components_than_there_are():
    with pytest.raises(ValueError, match="7 components of tokens that are 6 wide"):
        whitening(points(), 7, 0.5)


def test_k_means__is_as_good_as_scikit_learns():
    blobs = torch.cat([points(100, 3, seed) * 0.1 + 4 * seed for seed in range(4)])
    centres = k_means(blobs, 4, torch.Generator().manual_seed(0), starts=5)
    ours = float(distances(blobs, centres).min(dim=1).values.sum())
    theirs = KMeans(4, n_init=5, random_state=0).fit(blobs.numpy()).inertia_
    assert ours <= theirs * 1.001


def test_k_means__same_generator_same_bits():
    x = points()
    first, second = (k_means(x, 5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


def test_k_means__survives_fewer_distinct_points_than_centres():
    assert k_means(torch.ones(10, 2), 4, torch.Generator().manual_seed(0)).isfinite().all()


def test_k_means__refuses_too_few_points():
    with pytest.raises(ValueError, match="3 patches cannot start 4 parts"):
        k_means(torch.zeros(3, 2), 4, torch.Generator())


def test_distances__are_those_of_cdist():
    x, centres = points(30), points(4, seed=1)
    torch.testing.assert_close(distances(x, centres), torch.cdist(x, centres).square(), atol=1e-2, rtol=1e-3)
