import numpy as np

from reports.gallery import image_strip
from reports.samples import TILE, choose, spread_over_classes
from shards.image_shards import ImageShards
from shards.mask_shards import MaskShards
from tests.reports.conftest import write_shards


def test_spread_over_classes__takes_each_class_in_turn():
    labels = np.array([2, 2, 2, 0, 0, 1])
    assert spread_over_classes(labels, 3) == [3, 5, 0]
    assert spread_over_classes(labels, 5) == [3, 5, 0, 4, 1]
    assert spread_over_classes(labels, 99) == [3, 5, 0, 4, 1, 2]


def test_choose__gives_tiles_classes_and_true_parts(outs):
    samples = choose(ImageShards(outs / "data/shards", "test"), MaskShards(outs / "data/masks", "test"), 4)
    assert [tile.shape for tile in samples.tiles] == [(TILE, TILE, 3)] * 4
    assert sorted(samples.classes[:3]) == ["<cat & co>", "ant", "bee"]
    assert all(truth.shape == (TILE, TILE) for truth in samples.truth)


def test_choose__images_without_a_label_have_no_class(tmp_path):
    write_shards(tmp_path / "data/shards", classes=[])
    samples = choose(ImageShards(tmp_path / "data/shards", "test"), MaskShards(tmp_path / "data/masks", "test"), 4)
    assert samples.classes == samples.drawn == [""] * 4
    assert image_strip(samples).alt == "4 test images"


def test_choose__of_few_images_gives_them_all(outs):
    shards = ImageShards(outs / "data/shards", "test")
    assert sorted(choose(shards, MaskShards(outs / "data/masks", "test"), 500).ids) == sorted(shards.ids)
