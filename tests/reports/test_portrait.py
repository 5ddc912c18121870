import io
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from reports import figures, layout
from reports.dissection import Dissection
from reports.portrait import columns_for, legend, portrait

IMAGE = np.random.default_rng(0).integers(0, 255, (48, 48, 3)).astype(np.uint8)


def dissection(heads=3, parts=6, slot=True, rebuilt=True):
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.full(parts + slot, 0.2), (1, 14, 14)).transpose(0, 3, 1, 2)
    pixels = rng.integers(0, 255, (1, 16, 16, 3)).astype(np.uint8) if rebuilt else None
    return Dissection(rng.random((1, heads, 14, 14)), shares, shares.argmax(1).astype(np.uint8), pixels, parts)


def drawn(monkeypatch, seen, **options):
    figure = []
    monkeypatch.setattr(figures, "pixels_of", lambda found: figure.append(found) or IMAGE)
    portrait(IMAGE, seen, 0, **{"title": "a.png", **options})
    return figure[0]


def words_of(figure):
    """(text, extent in pixels) of everything written."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts]


def test_legend__names_every_part_used_and_no_other():
    labels = np.array([[0, 0], [3, 4]], dtype=np.uint8)
    entries = legend(labels, 4)
    assert [(entry.name, entry.share) for entry in entries] == [("part 0", 0.5), ("part 3", 0.25), ("background", 0.25)]
    assert len({entry.colour for entry in entries}) == 3


@pytest.mark.parametrize(("heads", "parts"), [(6, 6), (12, 12), (3, 20), (1, 2)])
@pytest.mark.parametrize("aspect", [0.3, 1.0, 4.0])
def test_portrait__nothing_is_clipped_and_no_words_overlap(monkeypatch, heads, parts, aspect):
    monkeypatch.setattr(layout, "DPI", 100)
    seen = dissection(heads, parts)
    title = "a file $name$ that goes on_and_on " * 9 + ".jpeg"
    figure = drawn(monkeypatch, seen, title=title, aspect=aspect)
    words = words_of(figure)
    width, height = figure.bbox.width, figure.bbox.height
    for text, box in words:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text
    numbers = {str(part) for part in range(parts)}
    told = [(text, box) for text, box in words if text not in numbers]
    for (one, box), (other, second) in combinations(told, 2):
        assert not box.overlaps(second), (one, other)
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert box.x1 <= width and box.y0 >= 0
        assert not any(box.overlaps(extent) for _, extent in told)


def test_portrait__tells_all_parts_heads_and_maps(monkeypatch):
    seen = dissection(heads=3, parts=12)
    told = [text for text, _ in words_of(drawn(monkeypatch, seen))]
    for part in np.unique(seen.labels):
        name = f"part {part}" if part < 12 else "background"
        assert name in told and any(text.startswith(f"{name}  ") for text in told)
        assert part == 12 or str(part) in told
    assert {"head 0", "head 2", "rebuilt from its parts", "image", "parts"} <= set(told)


def test_portrait__is_the_same_bytes_each_time_also_without_a_decoder():
    seen = dissection(slot=False, rebuilt=False)
    first, again = (portrait(IMAGE, seen, 0, title="x") for _ in range(2))
    assert first == again
    assert set(Image.open(io.BytesIO(first)).info) == set()


def test_columns_for__makes_the_fewest_rows_with_the_fewest_columns():
    assert columns_for([6, 7]) == 7
    assert columns_for([12, 12]) == 6
    assert columns_for([3, 3]) == 6
