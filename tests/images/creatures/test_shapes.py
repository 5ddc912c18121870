import itertools
import math

import numpy as np
import pytest

from images.creatures.canvas import Canvas
from images.creatures.shapes import Ellipse, Limb, Placement, Polygon, bent, bounds, towards, union

SHAPES = {
    "ellipse": Ellipse((0.1, -0.2), (0.7, 0.4), 0.6),
    "limb": Limb(((-0.6, -0.4), (0.0, 0.3), (0.7, 0.2)), (0.1, 0.3, 0.15)),
    "polygon": Polygon(((-0.7, -0.5), (0.6, -0.6), (0.1, 0.0), (0.5, 0.7), (-0.4, 0.5))),
    "rounded": Polygon(((-0.5, -0.5), (0.5, -0.5), (0.0, 0.5)), rounding=0.2),
}


def grid(count=61):
    places = np.linspace(-1.2, 1.2, count, dtype=np.float32)
    return places[None, :], places[:, None]


def inside_by_definition(shape, x, y):
    """Membership without distances: quadratic form, discs along the chain, winding of the corners."""
    if isinstance(shape, Ellipse):
        dx, dy = x - shape.centre[0], y - shape.centre[1]
        turned = (dx + 1j * dy) * np.exp(-1j * shape.angle)
        return (turned.real / shape.radii[0]) ** 2 + (turned.imag / shape.radii[1]) ** 2 < 1
    if isinstance(shape, Limb):
        found = np.zeros((y.size, x.size), dtype=bool)
        pairs = zip(shape.points, shape.points[1:], shape.radii, shape.radii[1:], strict=False)
        for (ax, ay), (bx, by), ra, rb in pairs:
            for t in np.linspace(0, 1, 200):
                found |= np.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay)) < ra + t * (rb - ra)
        return found
    corners = np.array(shape.points) @ (1, 1j)
    seen = corners[:, None, None] - (x + 1j * y)
    turns = np.angle(np.roll(seen, -1, axis=0) / seen).sum(axis=0)
    return np.abs(turns) > math.pi


@pytest.mark.parametrize("name", ["ellipse", "limb", "polygon"])
def test_field__is_negative_exactly_inside(name):
    x, y = grid()
    distance = SHAPES[name].field(x, y)[0]
    clear = np.abs(distance) > 0.02
    assert ((distance < 0) == inside_by_definition(SHAPES[name], x, y))[clear].all()


@pytest.mark.parametrize("name", SHAPES)
def test_field__grows_by_the_distance_at_the_outline(name):
    x, y = grid(241)
    distance, u, v = SHAPES[name].field(x, y)
    slopes = np.hypot(*np.gradient(distance, 2.4 / 240))
    near = np.abs(distance) < 0.02
    assert np.median(slopes[near]) == pytest.approx(1, abs=0.05)
    assert all(part.dtype == np.float32 and np.isfinite(part).all() for part in (distance, u, v))


@pytest.mark.parametrize("name", SHAPES)
def test_extent__holds_the_shape(name):
    x, y = grid()
    inside = SHAPES[name].field(x, y)[0] < 0
    columns, rows = x[0, inside.any(axis=0)], y[inside.any(axis=1), 0]
    left, bottom, right, top = bounds([SHAPES[name]])
    assert left - 1e-5 < columns.min() and columns.max() < right + 1e-5
    assert bottom - 1e-5 < rows.min() and rows.max() < top + 1e-5


def test_union__holds_every_shape_and_fills_the_seam():
    x, y = grid()
    shapes = (Ellipse((-0.4, 0.0), (0.4, 0.3)), Ellipse((0.4, 0.0), (0.4, 0.3)))
    each = np.minimum(*(shape.field(x, y)[0] for shape in shapes))
    hard, soft = union(shapes, x, y)[0], union(shapes, x, y, softness=0.2)[0]
    assert np.array_equal(hard, each)
    assert (soft <= hard).all() and (soft < 0).sum() > (hard < 0).sum()


def test_bent__has_its_length_and_leaves_at_its_angle():
    points = bent((0.3, 0.1), 0.5, 2.0, bend=0.0, segments=4)
    assert points[-1] == pytest.approx(towards((0.3, 0.1), 0.5, 2.0))
    curved = bent((0.0, 0.0), 0.0, 1.0, bend=1.0, segments=5)
    assert sum(itertools.starmap(math.dist, itertools.pairwise(curved))) == pytest.approx(1.0)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_placed__moves_the_field_with_the_shape(name, mirrored):
    """The moved shape's field at a moved point is the shape's at the point: scaled, v mirrored as it is."""
    placement = Placement((0.2, -0.1), (30.0, 20.0), 17.0, 0.7, mirrored)
    moved = SHAPES[name].placed(placement)
    for point in ((0.1, 0.2), (-0.5, -0.3), (0.9, 0.4)):
        here = SHAPES[name].field(*np.float32(point).reshape(2, 1, 1))
        there = moved.field(*np.float32(placement.point(point)).reshape(2, 1, 1))
        signs = (1, 1, -1 if mirrored else 1)
        for before, after, sign in zip(here, there, signs, strict=True):
            assert after.item() == pytest.approx(17 * sign * before.item(), abs=1e-3)
    assert placement.point((0.2, -0.1)) == (30.0, 20.0)


@pytest.mark.parametrize("name", SHAPES)
def test_canvas__the_window_cuts_nothing_off(name):
    """A painting by window equals the field of the whole picture; labels are the pixels mostly covered."""
    canvas = Canvas(np.zeros((3, 48, 48), dtype=np.float32))
    placement = Placement((0.0, 0.0), (20.0, 29.0), 21.0, 0.4, True)
    canvas.paint((SHAPES[name],), placement, lambda field, window: np.ones((3, 1, 1), np.float32), label=3)
    places = np.arange(48, dtype=np.float32) + 0.5
    distance = SHAPES[name].placed(placement).field(places[None], places[::-1, None])[0]
    assert np.allclose(canvas.rgb, np.clip(0.5 - distance, 0, 1), atol=1e-5)
    assert np.array_equal(canvas.labels == 3, distance < 0)


def test_canvas__a_shape_outside_changes_nothing():
    canvas = Canvas(np.zeros((3, 16, 16), dtype=np.float32))
    placement = Placement((0.0, 0.0), (-40.0, 8.0), 10.0)
    canvas.paint((SHAPES["ellipse"],), placement, lambda field, window: np.ones((3, 1, 1), np.float32), label=1)
    assert not canvas.rgb.any() and not canvas.labels.any()
