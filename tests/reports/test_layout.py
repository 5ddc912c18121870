import io

import numpy as np
from PIL import Image

from reports.gallery import Strip
from reports.layout import sheet


def test_sheet__shows_every_strip_below_its_heads():
    red = np.full((10, 40, 4), (255, 0, 0, 255), np.uint8)
    picture = Image.open(io.BytesIO(sheet([Strip("first", red, ""), Strip("second", red, "")], heads=["a", "b"])))
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    is_red = (pixels[..., 0] > 200) & (pixels[..., 1] < 50)
    rows = np.flatnonzero(is_red.any(axis=1))
    assert np.sum(np.diff(rows) > 1) == 1
    assert rows[0] > 0.02 * len(pixels)


def test_sheet__a_legend_colours_the_strips_it_names_or_stands_below():
    grey = np.full((10, 40, 4), 128, np.uint8)
    plain, named, below = (
        Image.open(io.BytesIO(sheet([Strip(name, grey, "")], legend=legend)))
        for name, legend in (("parts", {}), ("part 0", {"part 0": (255, 0, 0)}), ("parts", {"part 0": (255, 0, 0)}))
    )

    def has_red(picture):
        pixels = np.asarray(picture.convert("RGB")).astype(int)
        return bool(((pixels[..., 0] > 200) & (pixels[..., 1] < 80)).any())

    assert (has_red(plain), has_red(named), has_red(below)) == (False, True, True)
    assert plain.size == named.size and below.height > plain.height
