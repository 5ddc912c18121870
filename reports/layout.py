"""Pictures one below the other on white, as PNG bytes: for use outside of the page."""

from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports import figures
from reports.gallery import Strip
from reports.lettering import FONT
from reports.pictures import png

DPI = 120


def sheet(
    strips: Sequence[Strip],
    *,
    heads: Sequence[str] = (),
    legend: Mapping[str, tuple[int, int, int]] | None = None,
    legend_of: str = "",
) -> bytes:
    """Labelled strips of pictures one below the other, on white.

    heads: one above each picture of the first strip. legend: name -> RGB. A strip of such a name has its colour beside
    the label; if there is none, the whole legend is below the last strip, after the words `legend_of`.
    """
    legend = legend or {}
    width, margin, gap, head = 9.0, 1.25, 0.06, 0.28 if heads else 0.0
    below = {} if any(row.label in legend for row in strips) else legend
    a_row = 7
    foot = 0.22 * -(-len(below) // a_row)
    tall = [(width - margin) * row.pixels.shape[0] / row.pixels.shape[1] for row in strips]
    height = head + sum(tall) + gap * (len(tall) + 1) + foot
    with rc_context({"font.family": FONT, "font.size": 9, "text.color": figures.LIGHT["ink"]}):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        for place, text in enumerate(heads):
            across = margin + (width - margin) * (place + 0.5) / len(heads)
            # A file name may hold dollars, which would start a formula.
            figure.text(across / width, 1 - 0.6 * head / height, text, ha="center", va="center", parse_math=False)
        top = height - head - gap
        for row, extent in zip(strips, tall, strict=True):
            axes = figure.add_axes((margin / width, (top - extent) / height, 1 - margin / width, extent / height))
            axes.imshow(row.pixels, aspect="auto", interpolation="lanczos")
            axes.axis("off")
            named(figure, 0.09, top - extent / 2, row.label, legend.get(row.label))
            top -= extent + gap
        if below:
            named(figure, 0.09, top - 0.11, legend_of, None)
        for place, (text, colour) in enumerate(below.items()):
            across = margin + (width - margin) * (place % a_row) / a_row
            named(figure, across, top - 0.11 - 0.22 * (place // a_row), text, colour)
        return png(figures.pixels_of(figure))


def named(figure: Figure, left: float, up: float, text: str, colour: tuple[int, int, int] | None) -> None:
    """Text `left` inches from the left edge, centred `up` inches above the lower one, after a square of its colour."""
    width, height, side = *figure.get_size_inches(), 0.12
    if colour is not None:
        face = tuple(value / 255 for value in colour)
        corner = (left / width, (up - side / 2) / height)
        figure.add_artist(Rectangle(corner, side / width, side / height, facecolor=face, linewidth=0))
        left += 1.5 * side
    figure.text(left / width, up / height, text, va="center", parse_math=False)
