"""What surrounds an animal: a textured ground, clutter behind it and occluders before it, labelled 0.

Its colours are the same in every picture, so that they tell neither the picture nor the species. Unit: the side
of the picture.
"""

import math

import numpy as np

from images.creatures.canvas import Canvas
from images.creatures.shapes import Ellipse, Limb, Placement, Polygon, Shape, bent, towards, unit
from images.creatures.textures import colour, noise, relief

# Hue, saturation and value. Every picture shows all of them: a ground of its own would name a picture at once, and a
# network that learns to tell pictures apart would look at nothing else.
MATERIALS = {
    "grass": (0.25, 0.35, 0.45),
    "sand": (0.12, 0.3, 0.75),
    "soil": (0.06, 0.35, 0.35),
    "rock": (0.6, 0.06, 0.5),
    "snow": (0.58, 0.04, 0.88),
    "moss": (0.42, 0.3, 0.3),
}
SPREAD = (0.03, 0.06, 0.08)
# How sharply one material gives way to the next.
SHARPNESS = 18.0


def materials(count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """RGB of `count` different materials, each a little varied."""
    chosen = [list(MATERIALS.values())[index] for index in rng.choice(len(MATERIALS), count, replace=False)]
    return [colour(*(m + s * (2 * rng.random() - 1) for m, s in zip(hsv, SPREAD, strict=True))) for hsv in chosen]


def ground(size: int, rng: np.random.Generator) -> np.ndarray:
    """RGB (3, size, size): a patchwork of all materials, each under warped stripes, speckles or grain."""
    share = np.exp(SHARPNESS * np.stack([noise(size, 4, rng) for _ in MATERIALS]))
    share /= share.sum(axis=0)
    coarse, fine = noise(size, 3, rng), noise(size, 14, rng)
    textures = (stripes(size, coarse, rng), unit(4 * fine - 2), fine)
    rgb = np.zeros((3, size, size), dtype=np.float32)
    for index, (weight, tint) in enumerate(zip(share, materials(len(MATERIALS), rng), strict=True)):
        rgb += weight * tint * (0.85 + 0.3 * textures[index % len(textures)])
    return rgb


def stripes(size: int, warp: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Waves (size, size) in [0, 1] of any direction, bent by `warp`."""
    angle, period = math.pi * rng.random(), 0.08 + 0.14 * rng.random()
    side = np.arange(size, dtype=np.float32) / size
    ramp = math.cos(angle) * side + math.sin(angle) * side[:, None] + 0.25 * warp
    return 0.5 + 0.5 * np.sin(2 * np.pi / period * ramp)


def clutter(canvas: Canvas, count: int, rng: np.random.Generator, light: tuple[float, float]) -> None:
    """Paint `count` stones, leaves and stems anywhere, unlabelled."""
    for _ in range(count):
        place = (rng.random(), rng.random())
        _paint(canvas, thing(place, 0.09 + 0.13 * rng.random(), rng), rng, light)


def occluders(canvas: Canvas, count: int, rng: np.random.Generator, light: tuple[float, float]) -> None:
    """Paint `count` things before the animal; the pixels that they hide become background."""
    for _ in range(count):
        place = (0.15 + 0.7 * rng.random(), 0.15 + 0.7 * rng.random())
        _paint(canvas, thing(place, 0.07 + 0.07 * rng.random(), rng), rng, light)


def thing(place: tuple[float, float], reach: float, rng: np.random.Generator) -> tuple[Shape, ...]:
    """A stone, a leaf, a stem or a shard of about radius `reach` at `place`."""
    kind, angle = rng.integers(4), 2 * math.pi * rng.random()
    if kind == 0:
        return (Ellipse(place, (reach, reach * (0.55 + 0.45 * rng.random())), angle),)
    if kind == 1:
        points = bent(place, angle, 3.2 * reach, bend=2 * rng.random() - 1, segments=3)
        return (Limb(points, (0.22 * reach, 0.2 * reach, 0.16 * reach, 0.06 * reach)),)
    if kind == 2:
        points = bent(place, angle, 2 * reach, bend=1.2 * rng.random() - 0.6, segments=3)
        return (Limb(points, (0.1 * reach, 0.45 * reach, 0.5 * reach, 0.05 * reach)),)
    corners = tuple(
        towards(place, angle + 2 * math.pi * (i + 0.6 * rng.random()) / 4, reach * (0.7 + 0.5 * rng.random()))
        for i in range(4)
    )
    return (Polygon(corners, rounding=0.1 * reach),)


def _paint(canvas: Canvas, shapes: tuple[Shape, ...], rng: np.random.Generator, light: tuple[float, float]) -> None:
    first, second = materials(2, rng)
    stripes, strength = 2 * math.pi / (0.05 + 0.1 * rng.random()), 0.7 * rng.random()

    def shade(field, window):
        distance, u, _ = field
        tones = strength * (0.5 + 0.5 * np.sin(stripes * u))
        rgb = first + tones * (second - first)
        return rgb * relief(distance, canvas.size, light=light, depth=0.06)

    placement = Placement((0.0, 0.0), (0.0, 0.0), float(canvas.size))
    canvas.paint(shapes, placement, shade, label=0)
