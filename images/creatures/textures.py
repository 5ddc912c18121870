"""Colours and surfaces: smooth noise, palette and pattern of each kind of part, shading from distances.

Legend: tones (h, w) float32 in [0, 1] mix the two colours of a surface; a colour is (3, 1, 1) float32 RGB in
[0, 1].
"""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image

from images.creatures.anatomy import EARS, HEAD, LEGS, SNOUT, TAIL, TORSO, WINGS
from images.creatures.shapes import Field, unit

# Mean and half-range of hue, saturation and value (each a share of 1) by part kind: the same for every species, so
# that the colours tell the part and the parts tell the species. Wide enough, with light and ground, to overlap.
PALETTES = {
    TORSO: ((0.07, 0.06), (0.62, 0.18), (0.6, 0.16)),
    HEAD: ((0.33, 0.06), (0.5, 0.18), (0.75, 0.14)),
    LEGS: ((0.66, 0.07), (0.55, 0.2), (0.36, 0.12)),
    TAIL: ((0.98, 0.06), (0.75, 0.18), (0.62, 0.16)),
    WINGS: ((0.54, 0.06), (0.55, 0.2), (0.72, 0.16)),
    EARS: ((0.82, 0.06), (0.55, 0.2), (0.7, 0.16)),
    SNOUT: ((0.16, 0.04), (0.75, 0.18), (0.85, 0.12)),
}


@dataclass(frozen=True)
class Coat:
    """How one part kind of one animal looks: two colours, the ink of its marking, and the marking's name."""

    base: np.ndarray
    second: np.ndarray
    ink: np.ndarray
    mark: str


def noise(size: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise (size, size) float32 in [0, 1] with about `cells` bumps across the picture."""
    grid = rng.random((cells + 3, cells + 3), dtype=np.float32)
    box = (1.5, 1.5, cells + 1.5, cells + 1.5)
    smooth = Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC, box=box)
    return unit(np.asarray(smooth))


def colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB of an HSV colour; the hue wraps, the others are clipped."""
    bounded = min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0)
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, *bounded), dtype=np.float32)[:, None, None]


def coat(kind: int, mark: str, rng: np.random.Generator) -> Coat:
    """A coat drawn from the palette of part `kind`; its ink is dark on light colours, light on dark ones."""
    hue, saturation, value = (middle + spread * (2 * rng.random() - 1) for middle, spread in PALETTES[kind])
    shift = 0.08 * (2 * rng.random() - 1)
    ink = colour(hue + 0.5 * rng.random(), 0.5, value - 0.42 if value > 0.55 else value + 0.42)
    return Coat(colour(hue, saturation, value), colour(hue + shift, 0.7 * saturation, value + 0.2), ink, mark)


def surface(kind: int, worn: Coat, field: Field, grain: np.ndarray) -> np.ndarray:
    """Unlit RGB (3, h, w) of a part: the pattern of its kind, then the marking.

    field: (distance, u, v) in animal units; grain (h, w) in [0, 1] is smooth noise over the same pixels.
    """
    tones = _PATTERNS[kind](*field, grain)
    rgb = worn.base + tones * (worn.second - worn.base)
    if worn.mark != "plain":
        rgb += _marking(worn.mark, *field) * (worn.ink - rgb)
    return rgb


def _marking(mark: str, distance: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    if mark == "barred":
        waves = np.sin(2 * np.pi / 0.26 * u)
    else:
        waves = 1.6 * np.sin(2 * np.pi / 0.3 * u) * np.sin(2 * np.pi / 0.3 * (v + 0.075)) - 0.4
    return unit(2.5 * waves + 0.2)


def _fur(distance, u, v, grain):
    return unit(1.9 * grain - 0.6 - 1.2 * v)


def _smooth(distance, u, v, grain):
    return unit(-5 * distance)


def _socks(distance, u, v, grain):
    return unit(12 * (u - 0.42)) * 0.9


def _streaks(distance, u, v, grain):
    return 0.5 + 0.5 * np.sin(40 * v + 5 * grain)


def _rays(distance, u, v, grain):
    return unit(0.5 + 0.9 * np.sin(19 * v))


def _lining(distance, u, v, grain):
    return unit(-18 * (distance + 0.035))


def _gloss(distance, u, v, grain):
    return unit(1 - 8 * np.abs(v - 0.04))


_PATTERNS = {
    TORSO: _fur, HEAD: _smooth, LEGS: _socks, TAIL: _streaks, WINGS: _rays, EARS: _lining, SNOUT: _gloss,
}  # fmt: skip


def relief(distance: np.ndarray, pixels: float, *, light: tuple[float, float], depth: float) -> np.ndarray:
    """Brightness (h, w) of a rounded solid: lit towards `light`, dark along its outline.

    distance: (h, w) signed, in a unit of `pixels` pixels; light: direction (right, down) to the light; depth:
    width of the rounded rim in that unit.
    """
    slope = np.empty_like(distance)
    here = distance[1:, 1:]
    slope[1:, 1:] = light[0] * (here - distance[1:, :-1]) + light[1] * (here - distance[:-1, 1:])
    slope[0], slope[:, 0] = slope[1], slope[:, 1]
    lit = 1 + 0.5 * pixels * slope * unit(1 + distance / depth)
    return lit * (1 - 0.5 * unit(1.2 + distance * pixels))
