"""Ten species as combinations of part shapes, and an animal's parts in a random pose.

Coordinates: the animal looks towards +x and stands on -y; the unit is about half of its length. The same part
id means the same kind of part in every species. Most shapes are shared by several species: it is their
combination that tells them apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from images.creatures.shapes import Ellipse, Limb, Point, Polygon, Shape, bent, towards

PARTS = ("torso", "head", "legs", "tail", "wings", "ears", "snout")
TORSO, HEAD, LEGS, TAIL, WINGS, EARS, SNOUT = range(1, 8)
MARKS = ("plain", "barred", "spotted")

Vary = Callable[[float, float], float]


@dataclass(frozen=True)
class Species:
    """The shapes that make a species, and the part whose marking tells its sub-species."""

    name: str
    torso: str
    neck: float
    head: str
    legs: str
    tail: str
    wings: str
    ears: str
    snout: str
    marked: int


SPECIES = (
    Species("fox", "long", 0.28, "wedge", "four", "bushy", "none", "pointed", "muzzle", TAIL),
    Species("rabbit", "round", 0.12, "round", "short", "puff", "none", "long", "nub", TORSO),
    Species("elephant", "barrel", 0.12, "round", "thick", "whip", "none", "sail", "trunk", TORSO),
    Species("deer", "slim", 0.5, "wedge", "stilts", "puff", "none", "antlers", "muzzle", TORSO),
    Species("mouse", "round", 0.12, "wedge", "short", "whip", "none", "flap", "nub", TORSO),
    Species("dragon", "long", 0.5, "wedge", "thick", "spade", "membrane", "horns", "muzzle", WINGS),
    Species("griffin", "long", 0.28, "round", "four", "bushy", "feather", "pointed", "beak", WINGS),
    Species("rooster", "round", 0.28, "round", "two", "fan", "feather", "crest", "beak", TAIL),
    Species("heron", "slim", 0.5, "round", "two_stilts", "fan", "feather", "crest", "bill", WINGS),
    Species("bat", "round", 0.12, "wedge", "two", "spade", "membrane", "pointed", "nub", WINGS),
)

# What a species is made of, and the shapes that each of these has among all species.
ATTRIBUTES = ("torso", "neck", "head", "legs", "tail", "wings", "ears", "snout")
SHAPES = {name: tuple(dict.fromkeys(getattr(one, name) for one in SPECIES)) for name in ATTRIBUTES}

TORSO_RADII = {"long": (0.56, 0.27), "round": (0.44, 0.38), "barrel": (0.6, 0.42), "slim": (0.48, 0.25)}
HEAD_RADII = {"round": (0.31, 0.3), "wedge": (0.36, 0.25)}
# Number, length, thickness of the upper end and of the foot.
LEG_SIZES = {
    "four": (4, 0.5, 0.13, 0.08),
    "short": (4, 0.32, 0.15, 0.11),
    "thick": (4, 0.46, 0.17, 0.15),
    "stilts": (4, 0.72, 0.11, 0.06),
    "two": (2, 0.44, 0.13, 0.08),
    "two_stilts": (2, 0.78, 0.1, 0.06),
}
# (turn, reach) of the points of the rim, and its rounding: scallops between fingers, or soft feathers.
WING_FINGERS = {
    "membrane": (((-0.55, 0.75), (-0.35, 1.2), (0.0, 0.85), (0.3, 1.15), (0.62, 0.75), (0.95, 0.95)), 0.02),
    "feather": (
        ((-0.45, 0.5), (-0.3, 0.95), (-0.05, 1.1), (0.2, 1.02), (0.45, 0.85), (0.72, 0.62), (0.95, 0.35)),
        0.07,
    ),
}


@dataclass(frozen=True)
class Part:
    """One painted layer: shapes of one part kind, seams filled by `softness`; `far` is on the far side."""

    kind: int
    shapes: tuple[Shape, ...]
    far: bool = False
    softness: float = 0.05


@dataclass(frozen=True)
class Animal:
    """Parts in painting order (back to front) and the place and radius of the eye."""

    parts: tuple[Part, ...]
    eye: tuple[Point, float]


def mixed(species: Species, coherence: float, rng: np.random.Generator) -> Species:
    """`species`, of whose shapes each stays with probability `coherence` and otherwise is drawn from all of its kind.

    At 1 the parts of an animal tell each other, at 0 they do not. A mark meant for wings that are gone is on the torso.
    """
    kept = rng.random(len(ATTRIBUTES)) < coherence
    drawn = {name: SHAPES[name][rng.integers(len(SHAPES[name]))] for name in ATTRIBUTES}
    shapes = {name: drawn[name] for name, is_own in zip(ATTRIBUTES, kept, strict=True) if not is_own}
    found = replace(species, **shapes)
    return replace(found, marked=TORSO) if found.marked == WINGS and found.wings == "none" else found


def pose(species: Species, rng: np.random.Generator) -> Animal:
    """An animal of `species` whose joints and proportions are drawn from `rng`."""

    def vary(middle: float, spread: float) -> float:
        return middle + spread * (2 * rng.random() - 1)

    build = vary(1.0, 0.1)
    length, height = TORSO_RADII[species.torso]
    length, height = length * vary(1.0, 0.08), height * build
    nape = (0.68 * length, 0.4 * height)
    reach = species.neck * vary(1.0, 0.15) + 0.12
    neck = bent(nape, vary(0.95, 0.35), reach, bend=vary(-0.2, 0.5), segments=2)
    torso = Part(TORSO, (Ellipse((0.0, 0.0), (length, height)), Limb(neck, (0.2, 0.16, 0.13))), softness=0.16)

    look = vary(-0.25, 0.45)
    wide, high = (radius * vary(1.05, 0.08) for radius in HEAD_RADII[species.head])
    skull = towards(neck[-1], look, 0.3 * wide)
    head = Part(HEAD, (Ellipse(skull, (wide, high), look),))
    muzzle = towards(skull, look - 0.15, 0.8 * wide)
    eye = towards(skull, look + 0.75, 0.42 * wide), 0.1
    crown = towards(skull, look + 1.9, 0.7 * high)

    near_legs, far_legs = _legs(species.legs, length, height, vary)
    wings = _wings(species.wings, (0.12 * length, 0.45 * height), vary)
    ears = _ears(species.ears, crown, look, vary)
    rump = (-0.88 * length, 0.2 * height)
    tail = Part(TAIL, _tail(species.tail, rump, vary), softness=0.03)
    snout = Part(SNOUT, _snout(species.snout, muzzle, look, vary))
    behind = (*wings[1:], far_legs, tail, *ears[1:])
    return Animal((*behind, torso, near_legs, *wings[:1], snout, head, *ears[:1]), eye)


def _legs(name: str, length: float, height: float, vary: Vary) -> tuple[Part, Part]:
    """(near, far) legs: each thigh, shank and foot."""
    count, reach, upper, foot = LEG_SIZES[name]
    reach *= vary(1.0, 0.1)

    def leg(x: float, knee: float) -> Limb:
        hip = (x * length, -0.55 * height)
        swing = -math.pi / 2 + vary(0.0, 0.4)
        middle = towards(hip, swing, 0.55 * reach)
        heel = towards(middle, swing + knee * vary(0.35, 0.3), 0.55 * reach)
        toe = towards(heel, vary(0.0, 0.15), 0.11)
        return Limb((hip, middle, heel, toe), (upper, 0.75 * upper, foot, foot))

    places = ((0.62, 1.0), (-0.62, -1.0)) if count == 4 else ((-0.02, -1.0),)
    near = tuple(leg(x, knee) for x, knee in places)
    far = tuple(leg(x + 0.22, knee) for x, knee in places)
    return Part(LEGS, near, softness=0.02), Part(LEGS, far, far=True, softness=0.02)


def _tail(name: str, rump: Point, vary: Vary) -> tuple[Shape, ...]:
    angle = math.pi + vary(-0.45, 0.5)
    if name == "puff":
        return (Ellipse(towards(rump, angle, 0.12), (0.28, 0.25), angle),)
    if name == "fan":
        spread, reach = vary(0.62, 0.1), vary(0.66, 0.06)
        steps = np.linspace(-1, 1, 9).tolist()
        rim = (towards(rump, angle + spread * steps[i], reach * (1 - 0.1 * (i % 2))) for i in range(9))
        return (Polygon((towards(rump, angle + math.pi, 0.12), *rim), rounding=0.05),)
    if name == "bushy":
        points = bent(rump, angle, vary(0.78, 0.08), bend=vary(-0.9, 0.5), segments=4)
        return (Limb(points, (0.09, 0.2, 0.25, 0.2, 0.05)),)
    points = bent(rump, angle, vary(0.85, 0.08), bend=vary(-1.1, 0.7), segments=5)
    whip = Limb(points, (0.13, 0.12, 0.11, 0.1, 0.08, 0.06))
    if name == "whip":
        return (whip,)
    before, tip = points[-2:]
    heading = math.atan2(tip[1] - before[1], tip[0] - before[0])
    arrow = ((2.2, 0.25), (0.0, 0.34), (-2.2, 0.25))
    corners = tuple(towards(tip, heading + turn, far) for turn, far in arrow)
    return whip, Polygon(corners, rounding=0.03)


def _wings(name: str, root: Point, vary: Vary) -> tuple[Part, ...]:
    """() or (near, far)."""
    if name == "none":
        return ()
    raised = 1.95 + vary(0.0, 0.45)

    def wing(root: Point, angle: float, reach: float) -> Polygon:
        fingers, rounding = WING_FINGERS[name]
        rim = tuple(towards(root, angle + turn, reach * far) for turn, far in fingers)
        return Polygon((root, *rim), rounding=rounding)

    reach = vary(0.82, 0.06)
    near = wing(root, raised, reach)
    far = wing((root[0] + 0.16, root[1]), raised - vary(0.5, 0.15), 0.92 * reach)
    return Part(WINGS, (near,)), Part(WINGS, (far,), far=True)


def _ears(name: str, crown: Point, look: float, vary: Vary) -> tuple[Part, ...]:
    """Ears, horns, antlers or a crest: (near,) or (near, far)."""
    angle = look + 1.95 + vary(0.0, 0.2)

    def pair(make) -> tuple[Part, ...]:
        other = towards(crown, look, 0.16)
        return Part(EARS, make(crown, angle)), Part(EARS, make(other, angle - 0.3), far=True)

    if name == "pointed":
        size = vary(0.42, 0.04)
        return pair(lambda root, a: (_triangle(root, a, size, 0.31),))
    if name == "long":
        size, bend, radii = vary(0.66, 0.06), vary(0.2, 0.5), (0.08, 0.14, 0.15, 0.08)
        return pair(lambda root, a: (Limb(bent(root, a, size, bend=bend, segments=3), radii),))
    if name == "flap":
        size = vary(0.32, 0.03)
        return pair(lambda root, a: (Ellipse(towards(root, a + 0.35, 0.6 * size), (size, 0.9 * size), a),))
    if name == "sail":
        size = vary(0.42, 0.03)
        return pair(lambda root, a: (Ellipse(towards(root, a + 0.75, 0.55 * size), (size, 0.8 * size), a - 0.3),))
    if name == "horns":
        size, bend, radii = vary(0.6, 0.05), vary(0.9, 0.3), (0.13, 0.11, 0.08, 0.04)
        return pair(lambda root, a: (Limb(bent(root, a, size, bend=bend, segments=3), radii),))
    if name == "antlers":
        size = vary(0.6, 0.05)

        def antler(root: Point, a: float) -> tuple[Shape, ...]:
            beam = bent(root, a - 0.2, size, bend=0.5, segments=2)
            tine = (beam[1], towards(beam[1], a - 1.1, 0.33))
            return Limb(beam, (0.09, 0.085, 0.07)), Limb(tine, (0.08, 0.06))

        return pair(antler)
    assert name == "crest", name
    feathers = tuple(
        Limb((towards(crown, look, 0.14 - 0.14 * i), towards(crown, angle - 0.6 + 0.5 * i, 0.36)), (0.12, 0.09))
        for i in range(3)
    )
    return (Part(EARS, feathers),)


def _triangle(root: Point, angle: float, height: float, width: float) -> Polygon:
    left, right = towards(root, angle + math.pi / 2, width / 2), towards(root, angle - math.pi / 2, width / 2)
    return Polygon((left, towards(root, angle, height), right), rounding=0.03)


def _snout(name: str, muzzle: Point, look: float, vary: Vary) -> tuple[Shape, ...]:
    """Muzzle, nub, trunk, beak or bill, from the front of the head."""
    angle = look - 0.15
    if name == "muzzle":
        tip = towards(muzzle, angle - vary(0.05, 0.15), 0.42)
        return (Limb((muzzle, tip), (0.21, 0.16)),)
    if name == "nub":
        return (Ellipse(towards(muzzle, angle, 0.17), (0.23, 0.21), angle),)
    if name == "trunk":
        points = bent(muzzle, angle - 0.75, vary(0.8, 0.08), bend=vary(0.3, 1.2), segments=4)
        return (Limb(points, (0.2, 0.18, 0.16, 0.14, 0.13)),)
    if name == "beak":
        return (_triangle(muzzle, angle - vary(0.1, 0.1), 0.54, 0.46),)
    assert name == "bill", name
    return (_triangle(muzzle, angle - vary(0.1, 0.1), 0.84, 0.32),)
