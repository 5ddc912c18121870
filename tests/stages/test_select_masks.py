import shutil

import numpy as np
import pytest

from images.dataset import decoded_masks
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache
from shards.mask_shards import MaskShards
from shards.row_index import SPLITS
from stages.select_masks import next_in_a_cycle, true_parts
from tests.conftest import run_stage


@pytest.fixture(scope="module")
def selected(world, tmp_path_factory):
    """The tiny world with the maps of all arms that need parts."""
    folder = tmp_path_factory.mktemp("selected") / "world"
    shutil.copytree(world, folder, symlinks=True)
    for arm in ("semmae", "shuffled", "oracle", "oracle_shuffled"):
        run_stage(folder, "stages.select_masks", [arm])
    return folder


def test_oracle__has_the_label_of_most_pixels_of_a_cell_and_a_finer_grid_than_the_teacher(selected):
    oracle = MaskCache(selected / "arms/oracle")
    rows, columns = oracle.header["grid"]
    assert [rows, columns] == [2 * side for side in MaskCache(selected / "arms/semmae").header["grid"]]
    parts = oracle.header["num_parts"]
    assert oracle.header["background"] == parts
    decided = 0
    for split in SPLITS:
        shards, masks = (
            kind(selected / folder, split)
            for kind, folder in ((ImageShards, "data/shards"), (MaskShards, "data/masks"))
        )
        assert masks.num_labels == parts + 1
        for row in range(min(5, len(shards))):
            (pixels,) = decoded_masks(masks, shards, np.array([row]), 8 * max(rows, columns))
            labels = oracle[int(shards.ids[row])]
            height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
            for place in np.ndindex(rows, columns):
                cell = pixels[place[0] * height :, place[1] * width :][:height, :width]
                votes = np.bincount(cell.ravel(), minlength=256)
                winners = np.flatnonzero(votes == votes.max())
                if len(winners) == 1:
                    decided += 1
                    assert labels[place] == (winners[0] - 1 if winners[0] else parts)
    assert decided > 100


@pytest.mark.parametrize(("arm", "own"), [("shuffled", "semmae"), ("oracle_shuffled", "oracle")])
def test_another_image__keeps_the_maps_of_a_split_and_loses_whose_they_are(selected, arm, own):
    moved, kept = MaskCache(selected / "arms" / arm), MaskCache(selected / "arms" / own)
    for split in SPLITS:
        ids = ImageShards(selected / "data/shards", split).ids
        before, after = kept.rows(ids), moved.rows(ids)
        assert np.array_equal(after, before[next_in_a_cycle(len(ids))])
        assert any(not np.array_equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 1000])
def test_next_in_a_cycle__is_one_cycle_without_a_fixed_point(count):
    successors = next_in_a_cycle(count)
    assert sorted(successors) == list(range(count))
    assert count == 1 or not np.any(successors == np.arange(count))
    seen, at = 0, 0
    while count and (at := int(successors[at])) != 0:
        seen += 1
    assert seen == max(0, count - 1)


@pytest.mark.parametrize("kept", [0, 5])
def test_oracle__says_how_many_training_images_have_a_mask(selected, tmp_path, kept, monkeypatch, capsys):
    known = MaskShards(selected / "data/masks", "train").labelled_ids

    class Fewer(MaskShards):
        def __init__(self, folder, split):
            super().__init__(folder, split)
            if split == "train":
                self.labelled_ids = self.labelled_ids[:kept]
                self.pixels = self.pixels * min(kept, 1)

    monkeypatch.setattr("stages.select_masks.MaskShards", Fewer)
    # Whole batches have no mask.
    monkeypatch.setattr("stages.select_masks.BATCH", 3)
    monkeypatch.chdir(shutil.copytree(selected, tmp_path / "world", symlinks=True))
    if not kept:
        with pytest.raises(ValueError, match="no mask of a training image has a part"):
            true_parts()
        return
    run_stage(".", "stages.select_masks", ["oracle"])
    assert f"5 of {len(known)} training images have a mask" in capsys.readouterr().out
    oracle = MaskCache("arms/oracle")
    rows = oracle.rows(known)
    assert (rows[:5] < oracle.header["num_parts"]).any() and (rows[5:] == oracle.header["num_parts"]).all()


def test_oracle__pretrains(selected):
    run_stage(selected, "stages.pretrain", ["oracle", "0"])
    run_stage(selected, "stages.pretrain", ["oracle_shuffled", "0"])
    weights = [
        (selected / f"pretrained/{arm}-0/model.safetensors").read_bytes()
        for arm in ("oracle", "oracle_shuffled", "mae")
    ]
    assert len(set(weights)) == 3
