"""Small pictures from images, part maps and masks, laid side by side as strips.

S pixels a side of a tile. An image is (S, S, 3) uint8; a part map (gh, gw) integer, 0..K-1 parts and K background; a
mask (gh, gw) bool, True is hidden. Maps and masks cover the whole image, on any grid.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

# Okabe and Ito's colours, which most colour-blind readers can distinguish, then more of the same lightness.
PALETTE = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167), (0, 114, 178), (240, 228, 66),
    (148, 103, 189), (140, 86, 75), (127, 199, 127), (188, 189, 34), (23, 190, 207),
)  # fmt: skip
# Light of a second and a third round of the palette: towards black, then towards white.
ROUNDS = ((0, 0.0), (0, 0.45), (255, 0.5))
BACKGROUND = HIDDEN = (128, 133, 142)
HEAD = (255, 255, 255)
GAP = 6


def part_colour(part: int) -> tuple[int, int, int]:
    """RGB of a part, the same in every picture; from the thirteenth part on darker, then lighter, then again."""
    towards, share = ROUNDS[part // len(PALETTE) % len(ROUNDS)]
    red, green, blue = (round(value + (towards - value) * share) for value in PALETTE[part % len(PALETTE)])
    return red, green, blue


def paint_parts(image: np.ndarray, labels: np.ndarray, num_parts: int) -> np.ndarray:
    """The image with each part in its colour, a line between parts, and the background dimmed."""
    wide = spread(labels, image.shape[0])
    colours = np.array([*(part_colour(part) for part in range(num_parts)), (0, 0, 0)], dtype=np.float32)
    strength = np.where(wide < num_parts, 0.55, 0.5)[..., None]
    painted = grey(image) * 0.6 + image * 0.4
    painted = painted * (1 - strength) + colours[np.minimum(wide, num_parts)] * strength
    edge = np.zeros(wide.shape, dtype=bool)
    edge[1:] |= wide[1:] != wide[:-1]
    edge[:, 1:] |= wide[:, 1:] != wide[:, :-1]
    painted[edge] = 0.35 * painted[edge] + 0.65 * 255
    return painted.round().astype(np.uint8)


def only_part(image: np.ndarray, labels: np.ndarray, part: int) -> np.ndarray:
    """The image where it shows one part; the rest is grey and dim."""
    shown = (spread(labels, image.shape[0]) == part)[..., None]
    return np.where(shown, image, grey(image) * 0.22 + 24).round().astype(np.uint8)


def glow(image: np.ndarray, strength: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The image grey and dim, and over it a colour as strong as a map (gh, gw) of values in [0, 1] is."""
    size = image.shape[:2]
    smooth = Image.fromarray(strength.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
    weight = 0.92 * np.asarray(smooth).clip(0, 1)[..., None]
    return ((grey(image) * 0.4 + 10) * (1 - weight) + np.array(colour) * weight).round().astype(np.uint8)


def hide(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with its hidden patches covered."""
    return np.where(spread(mask, image.shape[0])[..., None], np.array(HIDDEN, dtype=np.uint8), image)


def spread(values: np.ndarray, size: int) -> np.ndarray:
    """A map (gh, gw) on size x size pixels, nearest."""
    rows = (np.arange(size) * values.shape[0]) // size
    columns = (np.arange(size) * values.shape[1]) // size
    return values[rows[:, None], columns[None, :]]


def grey(image: np.ndarray) -> np.ndarray:
    """The mean over colours, (S, S, 1) float32."""
    return image.astype(np.float32).mean(axis=2, keepdims=True)


def enlarge(image: np.ndarray, size: int) -> np.ndarray:
    """The image at size x size pixels, smooth."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def strip(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Tiles in a row: (S, n * S + gaps, 4) uint8 RGBA, transparent between them."""
    size, count = tiles[0].shape[0], len(tiles)
    out = np.zeros((size, count * size + (count - 1) * GAP, 4), dtype=np.uint8)
    for place, tile in enumerate(tiles):
        start = place * (size + GAP)
        out[:, start : start + size, :3] = tile
        out[:, start : start + size, 3] = 255
    return out


def png(pixels: np.ndarray) -> bytes:
    """Pixels (h, w, 3 or 4) uint8 as PNG bytes, without a date or a name of software."""
    return _encoded(pixels, format="PNG", compress_level=6)


def webp(pixels: np.ndarray) -> bytes:
    """The same as WebP bytes, in which no eye sees a difference on the page: a fifth of a photograph's PNG."""
    # Sharp: colours have half the resolution, and edges of painted parts would bleed otherwise.
    return _encoded(pixels, format="WEBP", quality=90, use_sharp_yuv=True)


def exact_webp(pixels: np.ndarray) -> bytes:
    """The same as WebP bytes without loss: half of a chart's PNG, and no smear around its letters."""
    return _encoded(pixels, format="WEBP", lossless=True)


def _encoded(pixels: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, **options)
    return out.getvalue()
