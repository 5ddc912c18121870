"""Whitening and k-means, which can initialise part tokens.

N points, D their width, C whitened width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDS = 50


def whitening(points: Tensor, width: int, strength: float) -> tuple[Tensor, Tensor]:
    """Matrix (C, D) and offset (C,) that turn points (N, D) into their C strongest principal components.

    strength: a component of variance v keeps variance v ** (1 - strength), so 0 is plain principal components and 1 whitening.
    Values in between work best: a few directions of a vision transformer's tokens outweigh those that separate parts, and the
    weakest are noise.
    Raises ValueError if `width` C exceeds D.
    """
    if width > points.shape[1]:
        raise ValueError(f"refine: {width} components of tokens that are {points.shape[1]} wide; lower token_width")
    mean = points.mean(dim=0)
    centred = points - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(points))
    values, vectors = values.flip(0)[:width], vectors.flip(1)[:, :width]
    # An eigenvector's sign is arbitrary and differs between libraries.
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()
    matrix = (vectors * values.clamp_min(1e-6 * values[0]) ** (-strength / 2)).T.contiguous()
    return matrix, -(matrix @ mean)


def k_means(points: Tensor, count: int, generator: torch.Generator, *, starts: int = 1) -> Tensor:
    """Centres (count, C) of points (N, C): the best of `starts` k-means++ starts, each refined by Lloyd's rounds.

    Deterministic given the generator. Not scikit-learn's: its sums over threads have no fixed order, so the last bits vary.
    Raises ValueError for fewer points than centres.
    """
    if len(points) < count:
        raise ValueError(f"{len(points)} patches cannot start {count} parts; use more images")
    tries = [_refined(points, _spread(points, count, generator)) for _ in range(starts)]
    return min(tries, key=lambda centres: float(distances(points, centres).amin(dim=1).sum()))


def _spread(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the points, each drawn with probability proportional to its squared distance from the earlier ones.

    Source: Arthur and Vassilvitskii, "k-means++", SODA 2007.
    """
    centres = points[torch.randint(len(points), (1,), generator=generator)]
    for _ in range(1, count):
        nearest = distances(points, centres).amin(dim=1)
        chosen = torch.multinomial(nearest.clamp_min(1e-12), 1, generator=generator)
        centres = torch.cat([centres, points[chosen]])
    return centres


def _refined(points: Tensor, centres: Tensor) -> Tensor:
    for _ in range(ROUNDS):
        members = F.one_hot(distances(points, centres).argmin(dim=1), len(centres)).to(points.dtype)
        sizes = members.sum(dim=0)
        moved = torch.where(sizes[:, None] > 0, (members.T @ points) / sizes.clamp_min(1)[:, None], centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squared distances (..., count) of points (..., C) from centres (count, C)."""
    squares = points.square().sum(dim=-1, keepdim=True) + centres.square().sum(dim=1)
    return (squares - 2 * points @ centres.T).clamp_min(0)
