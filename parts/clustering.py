"""Whitening and k-means: where part tokens can start."""

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDS = 50


def whitening(points: Tensor, width: int, strength: float) -> tuple[Tensor, Tensor]:
    """Matrix (C, D) and offset (C,) that turn points (N, D) into their C strongest principal components.

    A component of variance v keeps variance v ** (1 - strength): 0 is plain principal components, 1 is whitening.
    In a vision transformer's tokens a few directions outweigh those that tell parts apart, and the weakest are noise:
    in between is best.
    Raises ValueError when `width` C exceeds D.
    """
    if width > points.shape[1]:
        raise ValueError(f"refine: {width} components of tokens that are {points.shape[1]} wide; lower token_width")
    mean = points.mean(dim=0)
    centred = points - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(points))
    values, vectors = values.flip(0)[:width], vectors.flip(1)[:, :width]
    # The sign of an eigenvector is arbitrary; fixing it makes the result independent of the library's choice.
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()
    matrix = (vectors * values.clamp_min(1e-6 * values[0]) ** (-strength / 2)).T.contiguous()
    return matrix, -(matrix @ mean)


def k_means(points: Tensor, count: int, generator: torch.Generator, *, starts: int = 1) -> Tensor:
    """Centres (count, C) of points (N, C): the best of several k-means++ starts, each refined by Lloyd's rounds.

    Deterministic given the generator. Not scikit-learn's, whose sums over threads come in any order, so that the same
    run could differ in its last bits.
    Raises ValueError when there are fewer points than centres.
    """
    if len(points) < count:
        raise ValueError(f"{len(points)} patches cannot start {count} parts; use more images")
    tries = [_refined(points, _spread(points, count, generator)) for _ in range(starts)]
    return min(tries, key=lambda centres: float(distances(points, centres).amin(dim=1).sum()))


def _spread(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the points, each drawn with a chance that grows with its squared distance from those before it.

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
