"""The built-in data set: a picture of an articulated animal in a cluttered scene, with exact part labels.

A picture is a pure function of (seed, split, index): no count, no other picture and no global state enters.
Its species and sub-species follow from the index alone, in equal numbers.
"""

import math
from dataclasses import dataclass

import numpy as np

from images.creatures.anatomy import ATTRIBUTES, MARKS, PARTS, SPECIES, TAIL, TORSO, WINGS, Animal, Part, mixed, pose
from images.creatures.canvas import Canvas, Shader
from images.creatures.scenery import clutter, ground, occluders
from images.creatures.shapes import Ellipse, Placement, bounds, unit
from images.creatures.textures import Coat, coat, noise, relief, surface

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Picture:
    """image (size, size, 3) uint8 RGB; labels (size, size) uint8: 0 background, n the n-th of `PARTS`.

    attributes: the sub-species, its mark, and the shape of each part, by name.
    """

    image: np.ndarray
    labels: np.ndarray
    species: str
    attributes: dict[str, str]


def draw(
    *,
    seed: int,
    split: str,
    index: int,
    size: int,
    max_clutter: int,
    occlusion: float,
    coherence: float = 1.0,
    animal: bool = True,
) -> Picture:
    """Picture `index` of `split`; with `animal` false, the same scene and light without its animal.

    size: pixels; max_clutter: most things behind the animal, half of it the least; occlusion: probability
    that things stand before it; coherence: probability that a part has its species' shape and not any.
    """
    species = SPECIES[index % len(SPECIES)]
    mark = MARKS[index // len(SPECIES) % len(MARKS)]
    # One stream for each purpose: leaving the animal out moves nothing else.
    key = [seed, SPLITS.index(split), index]
    scene, body, front, shapes = (np.random.default_rng([*key, stream]) for stream in range(4))
    made = mixed(species, coherence, shapes)
    sun = 2 * math.pi * scene.random()
    light = (math.cos(sun), math.sin(sun))
    gradient = illumination(size, light, scene)
    canvas = Canvas(ground(size, scene))
    clutter(canvas, int(scene.integers(max_clutter // 2, max_clutter + 1)), scene, light)
    if animal:
        paint_animal(canvas, pose(made, body), coats(made.marked, mark, body), body, light)
    if front.random() < occlusion:
        occluders(canvas, int(front.integers(1, 3)), front, light)
    image = (unit(canvas.rgb * gradient) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    attributes = {name: str(getattr(made, name)) for name in ATTRIBUTES}
    attributes = {"subspecies": f"{mark}_{species.name}", "mark": mark, **attributes}
    return Picture(np.ascontiguousarray(image), canvas.labels, species.name, attributes)


def illumination(size: int, light: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Factor (3, size, size) of exposure, colour cast, and falling brightness away from the light."""
    cast = (0.85 + 0.3 * rng.random()) * (0.94 + 0.12 * rng.random(3, dtype=np.float32))
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    fall = 1 + 0.22 * rng.random() * (light[0] * ramp[None, :] + light[1] * ramp[:, None])
    return fall * cast[:, None, None]


def coats(marked: int, mark: str, rng: np.random.Generator) -> dict[int, Coat]:
    """A coat for every part kind: `marked` bears `mark`, other large kinds any, so it tells no species."""
    worn = {}
    for kind in range(1, len(PARTS) + 1):
        random_mark = MARKS[rng.integers(len(MARKS))] if kind in (TORSO, TAIL, WINGS) else "plain"
        worn[kind] = coat(kind, mark if kind == marked else random_mark, rng)
    return worn


def place(animal: Animal, size: int, rng: np.random.Generator) -> Placement:
    """A random scale, turn, mirroring and place, at which most of the animal lies within the picture."""
    shapes = [shape for part in animal.parts for shape in part.shapes]
    left, bottom, right, top = bounds(shapes)
    middle = ((left + right) / 2, (bottom + top) / 2)
    reach = max(math.dist(centre, middle) + radius for shape in shapes for centre, radius in shape.extent())
    extent = size * (0.47 + 0.12 * rng.random())
    angle = math.radians(50) * (2 * rng.random() - 1)
    room = 0.12 * size
    x, y = (size / 2 + room * (2 * rng.random() - 1) for _ in range(2))
    return Placement(middle, (x, y), extent / reach, angle, bool(rng.random() < 0.5))


def paint_animal(
    canvas: Canvas,
    animal: Animal,
    worn: dict[int, Coat],
    rng: np.random.Generator,
    light: tuple[float, float],
) -> None:
    """Paint the parts back to front, labelled, then the eye."""
    placement = place(animal, canvas.size, rng)
    grain = noise(canvas.size, 12, rng)
    for part in animal.parts:
        canvas.paint(
            part.shapes, placement, _shader(part, worn[part.kind], placement, grain, light),
            label=part.kind, softness=part.softness,
        )  # fmt: skip
    centre, radius = animal.eye
    canvas.paint((Ellipse(centre, (radius, radius)),), placement, _eye(radius, placement.scale))


def _eye(radius: float, pixels: float) -> Shader:
    """White around a dark pupil."""
    return lambda field, _: 0.05 + 0.9 * unit(0.5 + (field[0] + 0.4 * radius) * pixels)


def _shader(part: Part, worn: Coat, placement: Placement, grain: np.ndarray, light: tuple[float, float]) -> Shader:
    def shade(field, window):
        rgb = surface(part.kind, worn, field, grain[window])
        bright = relief(field[0], placement.scale, light=light, depth=0.18)
        return rgb * ((0.68 if part.far else 1.0) * bright)

    return shade
