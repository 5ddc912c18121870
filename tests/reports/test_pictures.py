import io

import numpy as np
from PIL import Image

from reports.pictures import (
    GAP,
    HIDDEN,
    enlarge,
    exact_webp,
    glow,
    hide,
    only_part,
    paint_parts,
    part_colour,
    png,
    spread,
    strip,
    webp,
)

IMAGE = np.random.default_rng(0).integers(0, 255, (12, 12, 3)).astype(np.uint8)
LABELS = np.array([[0, 1, 2], [2, 2, 2], [1, 1, 0]])


def test_hide__covers_exactly_the_hidden_patches():
    mask = LABELS == 1
    hidden = np.kron(mask, np.ones((4, 4))).astype(bool)
    shown = hide(IMAGE, mask)
    assert (shown[hidden] == HIDDEN).all()
    assert (shown[~hidden] == IMAGE[~hidden]).all()


def test_only_part__shows_the_part_as_it_is_and_the_rest_dim():
    mine = np.kron(LABELS == 2, np.ones((4, 4))).astype(bool)
    shown = only_part(IMAGE, LABELS, 2)
    assert (shown[mine] == IMAGE[mine]).all()
    assert shown[~mine].max() < 128
    assert np.ptp(shown[~mine], axis=1).max() == 0


def test_paint_parts__tells_parts_apart_and_leaves_background_without_colour():
    flat = np.full((60, 60, 3), 120, np.uint8)
    centres = paint_parts(flat, LABELS, num_parts=2)[10::20, 10::20].astype(int)
    assert (centres[0, 0] == centres[2, 2]).all()
    assert (centres[0, 0] != centres[0, 1]).any()
    assert np.ptp(centres[LABELS == 2], axis=1).max() == 0


def test_spread__agrees_with_a_kronecker_product_on_any_grid():
    rectangle = np.arange(6).reshape(2, 3)
    assert (spread(rectangle, 12) == np.kron(rectangle, np.ones((6, 4)))).all()
    assert spread(LABELS, 7).shape == (7, 7)


def test_strip__keeps_the_tiles_and_is_transparent_between_them():
    row = strip([IMAGE, IMAGE])
    assert row.shape == (12, 24 + GAP, 4)
    assert (row[:, :12, :3] == IMAGE).all() and (row[:, -12:, :3] == IMAGE).all()
    assert row[:, 12 : 12 + GAP].max() == 0 and row[:, :12, 3].min() == 255


def test_png__is_lossless_and_holds_no_text(tmp_path):
    data = png(strip([IMAGE]))
    (tmp_path / "a.png").write_bytes(data)
    read = Image.open(tmp_path / "a.png")
    assert (np.asarray(read)[..., :3] == IMAGE).all()
    assert read.info == {}
    assert png(strip([IMAGE])) == data


def test_exact_webp__is_lossless():
    picture = strip([IMAGE, IMAGE])
    read = np.asarray(Image.open(io.BytesIO(exact_webp(picture))))
    seen = picture[..., 3] > 0
    assert (read[seen] == picture[seen]).all() and (read[..., 3] == picture[..., 3]).all()


def test_webp__looks_like_the_picture_in_far_fewer_bytes():
    grain = np.random.default_rng(1).integers(-8, 9, (128, 128, 3))
    tile = (enlarge(IMAGE, 128).clip(8, 247) + grain).astype(np.uint8)
    picture = strip([tile, paint_parts(tile, LABELS, num_parts=2), hide(tile, LABELS == 1)])
    data = webp(picture)
    read = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    assert (read[..., 3] == picture[..., 3]).all()
    assert np.abs(read - picture)[picture[..., 3] > 0].mean() < 4
    assert len(data) < len(png(picture)) / 3
    assert webp(picture) == data


def test_enlarge__keeps_a_flat_colour():
    assert (enlarge(np.full((4, 4, 3), 77, np.uint8), 16) == 77).all()


def test_part_colour__differs_for_the_first_36_parts():
    assert len({part_colour(part) for part in range(36)}) == 36
    assert part_colour(253) == part_colour(253 % 36)


def test_glow__is_grey_where_a_map_is_zero_and_coloured_where_it_is_one():
    half = np.zeros((4, 4))
    half[:, 2:] = 1
    pixels = glow(IMAGE, half, (255, 0, 0)).astype(int)
    assert np.ptp(pixels[:, :3], axis=2).max() == 0
    assert (pixels[:, 9:, 0] - pixels[:, 9:, 1]).min() > 200
