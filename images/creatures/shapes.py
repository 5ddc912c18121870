"""Signed distance fields of the shapes that pictures are drawn from, and coordinates for their textures.

Legend: x (1, w) and y (h, 1) float32 coordinates of pixel centres; a field is (distance, u, v), each (h, w)
float32 and in the unit of x and y: distance negative inside, u along the shape, v across it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]
Field = tuple[np.ndarray, np.ndarray, np.ndarray]


def unit(values: np.ndarray) -> np.ndarray:
    """`values` clipped to [0, 1]; np.clip takes three times as long on arrays this small."""
    return np.minimum(np.maximum(values, 0), 1)


def towards(start: Point, angle: float, length: float) -> Point:
    """The point `length` away from `start` in the direction `angle` (radians, counter-clockwise from +x)."""
    return start[0] + length * math.cos(angle), start[1] + length * math.sin(angle)


def bent(start: Point, angle: float, length: float, *, bend: float, segments: int) -> tuple[Point, ...]:
    """`segments` + 1 points of a curve of `length` that leaves `start` at `angle` and turns by `bend`."""
    points = [start]
    for segment in range(segments):
        turned = angle + bend * (segment + 0.5) / segments
        points.append(towards(points[-1], turned, length / segments))
    return tuple(points)


@dataclass(frozen=True)
class Placement:
    """Where local coordinates land in the picture: pixels, y up from its lower left corner.

    origin: local point that lands on `target` (pixels); scale: pixels a unit; angle: radians,
    counter-clockwise; mirrored: x is flipped first.
    """

    origin: Point
    target: Point
    scale: float
    angle: float = 0.0
    mirrored: bool = False

    def point(self, local: Point) -> Point:
        """The place in the picture of a local point."""
        x, y = local[0] - self.origin[0], local[1] - self.origin[1]
        x = -x if self.mirrored else x
        cosine, sine = self.scale * math.cos(self.angle), self.scale * math.sin(self.angle)
        return self.target[0] + cosine * x - sine * y, self.target[1] + sine * x + cosine * y

    def direction(self, local: float) -> float:
        """The direction in the picture of a local one, in radians."""
        return self.angle + (math.pi - local if self.mirrored else local)


@dataclass(frozen=True)
class Ellipse:
    """An ellipse; `angle` turns its first radius from +x, counter-clockwise."""

    centre: Point
    radii: tuple[float, float]
    angle: float = 0.0

    def extent(self) -> list[tuple[Point, float]]:
        """Circles (centre, radius) that together cover the shape."""
        return [(self.centre, max(self.radii))]

    def placed(self, placement: Placement) -> "Ellipse":
        """The same shape in the coordinates of the picture."""
        a, b = self.radii
        radii = (a * placement.scale, b * placement.scale)
        return Ellipse(placement.point(self.centre), radii, placement.direction(self.angle))

    def field(self, x: np.ndarray, y: np.ndarray) -> Field:
        """Distance to first order: exact on the outline, where pixels are blended."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        dx, dy = x - self.centre[0], y - self.centre[1]
        u, v = cosine * dx + sine * dy, cosine * dy - sine * dx
        a, b = self.radii
        across, along = (u / a) ** 2, (v / b) ** 2
        # Both vanish at the centre, where any clearly negative distance serves.
        scaled = np.maximum(np.sqrt(across + along), 1e-3)
        slope = np.maximum(np.sqrt(across / a**2 + along / b**2), 1e-3 / max(a, b))
        return (scaled - 1) * scaled / slope, u, v


@dataclass(frozen=True)
class Limb:
    """A chain of round-ended segments through `points`, with a radius at each point."""

    points: tuple[Point, ...]
    radii: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.points) == len(self.radii) >= 2, (len(self.points), len(self.radii))

    def extent(self) -> list[tuple[Point, float]]:
        """Circles (centre, radius) that together cover the shape's bounding box."""
        return list(zip(self.points, self.radii, strict=True))

    def placed(self, placement: Placement) -> "Limb":
        """The same shape in the coordinates of the picture."""
        points = tuple(placement.point(point) for point in self.points)
        return Limb(points, tuple(radius * placement.scale for radius in self.radii))

    def field(self, x: np.ndarray, y: np.ndarray) -> Field:
        """u is the length along the chain, v the signed offset from it."""
        nearest: Field | None = None
        walked = 0.0
        steps = zip(self.points, self.points[1:], self.radii, self.radii[1:], strict=False)
        for (ax, ay), (bx, by), ra, rb in steps:
            length = max(math.hypot(bx - ax, by - ay), 1e-6)
            ex, ey = (bx - ax) / length, (by - ay) / length
            px, py = x - ax, y - ay
            reached, across = px * ex + py * ey, py * ex - px * ey
            along = np.minimum(np.maximum(reached, 0), length)
            gap = np.sqrt((reached - along) ** 2 + across**2) - (ra + (rb - ra) / length * along)
            along += walked
            walked += length
            if nearest is None:
                nearest = gap, along, across
            else:
                nearer = gap < nearest[0]
                for old, new in zip(nearest, (gap, along, across), strict=True):
                    np.copyto(old, new, where=nearer)
        assert nearest is not None
        return nearest


@dataclass(frozen=True)
class Polygon:
    """A closed polygon, grown by `rounding`; u and v are polar around its first point.

    u is the distance from it, v the length of the arc at the mean distance of the corners.
    """

    points: tuple[Point, ...]
    rounding: float = 0.0

    def extent(self) -> list[tuple[Point, float]]:
        """Circles (centre, radius) that together cover the shape's bounding box."""
        return [(point, self.rounding) for point in self.points]

    def placed(self, placement: Placement) -> "Polygon":
        """The same shape in the coordinates of the picture."""
        points = tuple(placement.point(point) for point in self.points)
        return Polygon(points, self.rounding * placement.scale)

    def field(self, x: np.ndarray, y: np.ndarray) -> Field:
        """Exact distance to the nearest edge; the inside is told by the parity of crossings."""
        starts = np.array(self.points, dtype=np.float32)[:, :, None, None]
        ends = np.roll(starts, -1, axis=0)
        (ax, ay), (ex, ey) = starts.swapaxes(0, 1), (ends - starts).swapaxes(0, 1)
        px, py = x - ax, y - ay
        along = unit((px * ex + py * ey) / np.maximum(ex * ex + ey * ey, np.float32(1e-12)))
        squared = ((px - along * ex) ** 2 + (py - along * ey) ** 2).min(axis=0)
        crosses = ((y < ay) != (y < ends[:, 1])) & ((px * ey < py * ex) == (ey > 0))
        inside = np.logical_xor.reduce(crosses, axis=0)
        distance = np.sqrt(squared) * np.where(inside, np.float32(-1), np.float32(1)) - self.rounding
        root, *others = self.points
        reach = sum(math.dist(root, corner) for corner in others) / len(others)
        # Angles count from the axis (first point to mean of all), so that their cut lies behind the shape.
        axis = math.atan2(*(sum(corner[i] - root[i] for corner in others) for i in (1, 0)))
        cosine, sine = math.cos(axis), math.sin(axis)
        dx, dy = x - root[0], y - root[1]
        arc = np.float32(reach) * np.arctan2(cosine * dy - sine * dx, cosine * dx + sine * dy)
        return distance, np.sqrt(dx**2 + dy**2), arc


Shape = Ellipse | Limb | Polygon


def bounds(shapes: Sequence[Shape]) -> tuple[float, float, float, float]:
    """(left, bottom, right, top) of a box that holds all `shapes`."""
    circles = [circle for shape in shapes for circle in shape.extent()]
    left, bottom = (min(centre[axis] - radius for centre, radius in circles) for axis in (0, 1))
    right, top = (max(centre[axis] + radius for centre, radius in circles) for axis in (0, 1))
    return left, bottom, right, top


def union(shapes: Sequence[Shape], x: np.ndarray, y: np.ndarray, *, softness: float = 0.0) -> Field:
    """The field of all `shapes` together; where they meet, a seam is filled up to about `softness`."""
    distance, u, v = shapes[0].field(x, y)
    for shape in shapes[1:]:
        other, other_u, other_v = shape.field(x, y)
        nearer = other < distance
        u, v = np.where(nearer, other_u, u), np.where(nearer, other_v, v)
        blend = np.maximum(softness - np.abs(other - distance), 0) ** 2 / (4 * softness) if softness else 0.0
        distance = np.minimum(other, distance) - blend
    return distance, u, v
