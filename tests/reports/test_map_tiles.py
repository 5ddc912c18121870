import numpy as np

from reports.map_tiles import colour_of, head_tiles, map_tiles, part_colours
from reports.pictures import BACKGROUND, HEAD, part_colour

IMAGE = np.full((40, 40, 3), 100, np.uint8)


def test_head_tiles__every_head_is_relative_to_its_own_strongest_patch():
    strong = np.zeros((2, 4, 4))
    strong[0, 0, 0], strong[1, 3, 3] = 1.0, 0.001
    first, second = (tile.pixels for tile in head_tiles(IMAGE, strong))
    assert (first[0, 0] == second[-1, -1]).all()
    assert np.abs(first[0, 0].astype(int) - HEAD).max() < 20
    assert first[-1, -1].max() < 60


def test_map_tiles__are_in_the_colours_of_the_legend():
    shares = np.zeros((3, 4, 4))
    shares[1] = 1.0
    tiles = list(map_tiles(IMAGE, shares, 2, [0, 1, 2]))
    assert [tile.title for tile in tiles] == ["part 0", "part 1", "background"]
    assert {tile.title: tile.colour for tile in tiles} == part_colours(2)
    assert np.abs(tiles[1].pixels.astype(int) - part_colour(1)).max() < 20
    assert np.ptp(tiles[0].pixels) == 0 and tiles[0].pixels.max() < 60
    assert colour_of(2, 2) == BACKGROUND
