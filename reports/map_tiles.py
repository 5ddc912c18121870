"""Attention heads and part maps as pictures over the image that they are of.

(S, S) pixels of an image, H heads, (gh, gw) patch grid, K parts.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from reports.pictures import BACKGROUND, HEAD, glow, part_colour


class MapTile(NamedTuple):
    """The title above a picture, the picture (S, S, 3) uint8, and the colour of what it shows, if it has one."""

    title: str
    pixels: np.ndarray
    colour: tuple[int, int, int] | None = None


def name_of(label: int, num_parts: int) -> str:
    """`part 3`, or `background`."""
    return f"part {label}" if label < num_parts else "background"


def colour_of(label: int, num_parts: int) -> tuple[int, int, int]:
    """RGB of a part, grey of the background."""
    return part_colour(label) if label < num_parts else BACKGROUND


def part_colours(num_parts: int) -> dict[str, tuple[int, int, int]]:
    """Name -> RGB of every part, and of the background at the end."""
    return {name_of(label, num_parts): colour_of(label, num_parts) for label in range(num_parts + 1)}


def head_tiles(image: np.ndarray, attention: np.ndarray) -> Iterator[MapTile]:
    """Attention (H, gh, gw) over the image, each head relative to its strongest patch."""
    for head, values in enumerate(attention):
        yield MapTile(f"head {head}", glow(image, values / max(float(values.max()), 1e-12), HEAD))


def map_tiles(image: np.ndarray, shares: np.ndarray, num_parts: int, labels: Iterable[int]) -> Iterator[MapTile]:
    """The maps `labels` of shares (S, gh, gw) in [0, 1] over the image, each in its part's colour."""
    for label in map(int, labels):
        colour = colour_of(label, num_parts)
        yield MapTile(name_of(label, num_parts), glow(image, shares[label], colour), colour)
