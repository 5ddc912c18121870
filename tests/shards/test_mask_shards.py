import pickle

import numpy as np
import pytest

from shards.mask_shards import MaskShards, MaskShardWriter
from shards.row_index import SPLITS

LABELS = {0: 0, 3: 5, 7: 5, 9: 255}
COUNTS = {"test": 40, "val": 0, "train": 300}


def drawn(split):
    """(image id, mask, pixels of each value) of a split; the ids ascend in no order."""
    draw = np.random.default_rng(len(split))
    for image_id in draw.choice(2**62, COUNTS[split], replace=False).tolist():
        values = draw.choice(list(LABELS), draw.integers(1, 4))
        yield image_id, draw.bytes(int(draw.integers(1, 200))), np.bincount(values, minlength=256)


def write(folder, *, shard_bytes=8000, store=""):
    with MaskShardWriter(folder, shard_bytes=shard_bytes, store=store) as writer:
        writer.labels = LABELS
        for split in ("test", "train"):
            for image_id, mask, pixels in drawn(split):
                writer.add(split, image_id=image_id, mask=mask, path=f"{image_id}.png", pixels=pixels)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "masks")


@pytest.mark.parametrize("split", SPLITS)
def test_masks__are_those_of_the_images_by_id(folder, split):
    masks, expected = MaskShards(folder, split), {image_id: mask for image_id, mask, _ in drawn(split)}
    assert masks.ids.tolist() == sorted(expected) and len(masks) == COUNTS[split]
    assert {image_id: masks.bytes(image_id) for image_id in masks.ids.tolist()} == expected
    assert masks.bytes(1) is None and masks.bytes(2**63) is None
    assert pickle.loads(pickle.dumps(masks)).bytes(int(max(expected, default=0))) == expected.get(
        max(expected, default=0)
    )


def test_masks__of_which_no_pixel_has_a_label_are_told_apart(folder):
    expected = {image_id for image_id, _, pixels in drawn("train") if set(np.flatnonzero(pixels)) - {9}}
    assert set(MaskShards(folder, "train").labelled_ids.tolist()) == expected
    assert 0 < len(expected) < COUNTS["train"]


def test_labels__are_the_table_and_count_the_pixels_of_the_split(folder):
    masks = MaskShards(folder, "train")
    assert {value: int(masks.labels[value]) for value in range(256) if masks.labels[value] != 255} == {0: 0, 3: 5, 7: 5}
    pixels = sum(pixels for _, _, pixels in drawn("train"))
    assert masks.num_labels == 6
    assert masks.pixels.tolist() == [pixels[0], 0, 0, 0, 0, pixels[3] + pixels[7]]
    assert MaskShards(folder, "val").pixels.tolist() == [0] * 6


def test_masks__in_a_store_are_the_same(folder, tmp_path):
    remote = write(tmp_path / "remote", store=f"file://{tmp_path}/store")
    here, there = MaskShards(folder, "train"), MaskShards(remote, "train")
    assert [here.bytes(image_id) for image_id in here.ids] == [there.bytes(image_id) for image_id in there.ids]


def test_masks__without_any_are_an_empty_folder(tmp_path):
    with MaskShardWriter(tmp_path / "none", shard_bytes=1):
        pass
    masks = MaskShards(tmp_path / "none", "train")
    assert (len(masks), masks.bytes(3), masks.num_labels, masks.labelled_ids.tolist()) == (0, None, 0, [])
