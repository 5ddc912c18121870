"""Whitening and k-means: where part tokens can start."""

import torch
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


def k_means(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centres (count, C) of points (N, C): k-means++ start, then Lloyd's rounds; deterministic given the generator.

    Not scikit-learn's, whose sums over threads come in any order, so that the same run could differ in its last bits.
    """
    if len(points) < count:
        raise ValueError(f"{len(points)} patches cannot start {count} parts; use more images")
    first = torch.randint(len(points), (1,), generator=generator)
    centres = points[first]
    nearest = distances(points, centres).squeeze(1)
    for _ in range(1, count):
        chosen = torch.multinomial(nearest.clamp_min(1e-12).double(), 1, generator=generator)
        centres = torch.cat([centres, points[chosen]])
        nearest = torch.minimum(nearest, distances(points, points[chosen]).squeeze(1))
    for _ in range(ROUNDS):
        members = torch.nn.functional.one_hot(distances(points, centres).argmin(dim=1), count).to(points.dtype)
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
