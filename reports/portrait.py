"""One picture of one image: parts over it with their legend, the teacher's heads, every part's map, the image rebuilt."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from reports import figures, layout
from reports.dissection import Dissection
from reports.lettering import FONT, shortened
from reports.map_tiles import MapTile, colour_of, head_tiles, map_tiles, name_of
from reports.pictures import enlarge, paint_parts, png

# Inches. A tile has this area at any proportions.
TILE, GAP, MARGIN, TITLE, HEADING, LEGEND_ROW, LEGEND_WIDTH = 1.5, 0.08, 0.15, 0.22, 0.3, 0.22, 1.5
FEWEST_COLUMNS, MOST_COLUMNS, MOST_MAPS = 6, 8, 24
# Longer panoramas are squeezed: only their parts matter here.
LEAST_ASPECT, MOST_ASPECT = 0.5, 2.0


class Entry(NamedTuple):
    """A label that occurs in the image: its number, name, colour and share of the patches."""

    label: int
    name: str
    colour: tuple[int, int, int]
    share: float


def portrait(image: np.ndarray, seen: Dissection, place: int, *, title: str, aspect: float = 1.0) -> bytes:
    """The picture of image number `place` as PNG.

    image: (S, S, 3) uint8, the whole image. aspect: width / height to show it at. Order and colours are the same
    in every picture, so that two can be compared side by side.
    """
    entries = legend(seen.labels[place], seen.num_parts)
    first = [MapTile("image", image), MapTile("parts", paint_parts(image, seen.labels[place], seen.num_parts))]
    if seen.rebuilt is not None:
        first.append(MapTile("rebuilt from its parts", enlarge(seen.rebuilt[place], image.shape[0])))
    shares = seen.shares[place]
    largest = np.sort(np.argsort(-shares.sum(axis=(1, 2)), kind="stable")[:MOST_MAPS])
    groups = {
        "Attention heads of the teacher, each relative to its strongest patch": list(
            head_tiles(image, seen.heads[place])
        ),
        "Share of every part in a patch: dim is none, full colour is all": list(
            map_tiles(image, shares, seen.num_parts, largest)
        ),
    }
    return _draw(title, first, entries, groups, labels=seen.labels[place], aspect=aspect)


def legend(labels: np.ndarray, num_parts: int) -> list[Entry]:
    """An entry for every part that occurs in labels (gh, gw), in their order, background last."""
    counts = np.bincount(labels.ravel(), minlength=num_parts + 1)
    return [
        Entry(label, name_of(label, num_parts), colour_of(label, num_parts), float(counts[label] / labels.size))
        for label in np.flatnonzero(counts).tolist()
    ]


def columns_for(counts: Sequence[int]) -> int:
    """Tiles a row: as many as make the fewest rows of all groups, and then the fewest."""
    return min(range(FEWEST_COLUMNS, MOST_COLUMNS + 1), key=lambda n: (sum(-(-count // n) for count in counts), n))


def _draw(
    title: str,
    first: Sequence[MapTile],
    entries: Sequence[Entry],
    groups: dict[str, list[MapTile]],
    *,
    labels: np.ndarray,
    aspect: float,
) -> bytes:
    root = min(max(aspect, LEAST_ASPECT), MOST_ASPECT) ** 0.5
    wide, tall = TILE * root, TILE / root
    columns = columns_for([len(tiles) for tiles in groups.values()])
    inner = columns * wide + (columns - 1) * GAP
    large = (inner - 2 * GAP) / 3
    a_row = max(1, int(inner // LEGEND_WIDTH))
    legend_rows = -(-len(entries) // a_row)
    height = MARGIN * 2 + HEADING + TITLE + large * tall / wide + 0.1 + legend_rows * LEGEND_ROW
    height += sum(HEADING + 0.1 + -(-len(tiles) // columns) * (TITLE + tall + GAP) for tiles in groups.values())
    with rc_context({"font.family": FONT, "font.size": 9, "text.color": figures.LIGHT["ink"]}):
        figure = Figure(figsize=(inner + 2 * MARGIN, height), dpi=layout.DPI, facecolor="white")
        page = _Page(figure)
        page.heading(shortened(title, int(inner / 0.1)), 11)
        page.tiles(first, large, large * tall / wide, columns=3)
        page.numbers(1, labels, [entry for entry in entries if entry.name != "background"], large, tall / wide)
        page.top += 0.1
        page.legend(entries, a_row, inner / a_row)
        for heading, tiles in groups.items():
            page.top += 0.1
            page.heading(heading, 9)
            page.tiles(tiles, wide, tall, columns=columns)
        return png(figures.pixels_of(figure))


class _Page:
    """Places things in inches from the upper left corner, below `top`."""

    def __init__(self, figure: Figure) -> None:
        self.figure, self.top = figure, MARGIN
        self.width, self.height = figure.get_size_inches()
        self.boxes: list = []

    def named(self, left: float, down: float, text: str, colour: tuple[int, int, int] | None = None) -> None:
        layout.named(self.figure, left, self.height - self.top - down, text, colour)

    def heading(self, text: str, size: float) -> None:
        where = (MARGIN / self.width, 1 - (self.top + HEADING / 2) / self.height)
        self.figure.text(*where, text, va="center", weight="bold", size=size, parse_math=False)
        self.top += HEADING

    def tiles(self, tiles: Sequence[MapTile], wide: float, tall: float, *, columns: int) -> None:
        for start in range(0, len(tiles), columns):
            for place, tile in enumerate(tiles[start : start + columns]):
                left = MARGIN + place * (wide + GAP)
                self.named(left, TITLE / 2, tile.title, tile.colour)
                bottom = 1 - (self.top + TITLE + tall) / self.height
                axes = self.figure.add_axes((left / self.width, bottom, wide / self.width, tall / self.height))
                axes.imshow(tile.pixels, aspect="auto", interpolation="antialiased")
                axes.axis("off")
                self.boxes.append(axes)
            self.top += TITLE + tall + GAP

    def numbers(self, box: int, labels: np.ndarray, entries: Sequence[Entry], wide: float, ratio: float) -> None:
        """The number of every part on one patch of it, the one nearest to the middle of them."""
        axes = self.boxes[box]
        size = min(10.0, max(5.0, 72 * 0.6 * wide * min(ratio / labels.shape[0], 1 / labels.shape[1])))
        for entry in entries:
            patches = np.argwhere(labels == entry.label)
            row, column = patches[np.square(patches - patches.mean(axis=0)).sum(axis=1).argmin()]
            where = ((column + 0.5) / labels.shape[1], 1 - (row + 0.5) / labels.shape[0])
            box_style = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
            axes.text(*where, str(entry.label), transform=axes.transAxes, ha="center", va="center", size=size,
                      weight="bold", bbox=box_style)  # fmt: skip

    def legend(self, entries: Sequence[Entry], a_row: int, wide: float) -> None:
        for start in range(0, len(entries), a_row):
            for place, entry in enumerate(entries[start : start + a_row]):
                text = f"{entry.name}  {100 * entry.share:.0f} %"
                self.named(MARGIN + place * wide, LEGEND_ROW / 2, text, entry.colour)
            self.top += LEGEND_ROW
