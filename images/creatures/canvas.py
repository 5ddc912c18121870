"""Painting of shapes onto a picture and its label map, pixel window by pixel window.

Edges are smoothed analytically: a pixel is blended by its signed distance to the outline. A label is set
where the pixel's centre lies inside: it names the shape that holds most of the pixel; nothing is resampled.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from images.creatures.shapes import Field, Placement, Shape, bounds, union, unit

Window = tuple[slice, slice]
Shader = Callable[[Field, Window], np.ndarray]


class Canvas:
    """A picture in the making: rgb (3, size, size) float32, labels (size, size) uint8, at first all 0."""

    def __init__(self, rgb: np.ndarray) -> None:
        self.size = rgb.shape[-1]
        self.rgb = rgb
        self.labels = np.zeros(rgb.shape[1:], dtype=np.uint8)
        places = np.arange(self.size, dtype=np.float32) + np.float32(0.5)
        self._x, self._y = places[None, :], places[::-1, None]

    def paint(
        self,
        shapes: Sequence[Shape],
        placement: Placement,
        shader: Shader,
        *,
        label: int | None = None,
        softness: float = 0.0,
    ) -> None:
        """Paint the union of `shapes` over what is there.

        `shader(field, window)` gives its RGB (3, h, w) or grey (h, w). Label None leaves the labels.
        """
        placed = [shape.placed(placement) for shape in shapes]
        window = self._window(placed)
        rows, columns = window
        if rows.stop - rows.start < 2 or columns.stop - columns.start < 2:
            return
        # Shapes move to the pixels rather than pixels to the shapes: coordinates stay a row and a column.
        distance, u, v = union(placed, self._x[:, columns], self._y[rows], softness=softness * placement.scale)
        back = np.float32(1 / placement.scale)
        field = distance * back, u * back, v * (-back if placement.mirrored else back)
        target = self.rgb[:, rows, columns]
        target += unit(0.5 - distance) * (shader(field, window) - target)
        if label is not None:
            self.labels[window][distance < 0] = label

    def _window(self, placed: Sequence[Shape]) -> Window:
        """The pixels that shapes in picture coordinates may touch, one pixel of blending included."""
        left, bottom, right, top = bounds(placed)
        columns = slice(self._clip(left - 1), self._clip(right + 2))
        return slice(self._clip(self.size - top - 1), self._clip(self.size - bottom + 2)), columns

    def _clip(self, place: float) -> int:
        return min(max(math.floor(place), 0), self.size)
