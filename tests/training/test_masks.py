import numpy as np
import pytest
import torch

from config.params import load_params
from shards.arrays import VERSION
from shards.mask_cache import MaskCacheWriter
from shards.seals import MANIFEST, write_sealed
from training.masks import ArmMasks
from training.randomness import generator

IDS = np.arange(1, 41, dtype=np.uint64)
ARMS = load_params().arms.definitions


def write_maps(folder, *, kind="labels", seed=0):
    values = 256 if kind == "ranks" else 6
    labels = np.random.default_rng(seed).integers(0, values, (len(IDS), 8, 8)).astype(np.uint8)
    header = {
        "grid": [8, 8],
        "patch_size": 8,
        "num_parts": values,
        "background": None,
        "kind": kind,
        "teacher": "",
        "part_learner": "",
    }
    with MaskCacheWriter(folder, header=header, shard_rows=100) as writer:
        writer.add(IDS, labels)
    return labels


def write_none(folder, version=VERSION):
    folder.mkdir()
    write_sealed(folder / MANIFEST, {"version": version, "header": {"kind": "none"}, "shards": []})


def make(folder, name, ids=IDS):
    return ArmMasks(folder, ARMS[name], ids=ids, ratio=0.75, hint_share=0.1)


def draw(masks, progress=0.5, count=40, step=0):
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(count, 1)
    return masks.draw(
        np.arange(count), boxes=whole, flips=torch.zeros(count, dtype=torch.bool), grid=(8, 8), progress=progress,
        generator=generator(0, "masks", step),
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name, arm in sorted(ARMS.items()) if arm.mask != "none"])
def test_draw__every_arm_that_pretrains_hides_the_same_number_in_every_row(tmp_path, name):
    if ARMS[name].maps == "none":
        write_none(tmp_path / "arm")
    else:
        write_maps(tmp_path / "arm", kind=ARMS[name].maps)
    mask, _ = draw(make(tmp_path / "arm", name))
    assert mask.shape == (40, 64)
    assert mask.sum(dim=1).unique().tolist() == [48]


def test_draw__semantic_masks_spread_over_parts_as_training_goes_on(tmp_path):
    write_maps(tmp_path / "arm")
    masks = make(tmp_path / "arm", "semmae")
    logged = [draw(masks, progress)[1] for progress in (0.0, 0.5, 1.0)]
    assert [row["alpha"] for row in logged] == [0.0, 0.25, 1.0]
    assert logged[0]["hidden_ratio_std"] < 0.08
    assert logged[2]["hidden_ratio_std"] > 0.3
    assert [row["hidden_foreground"] for row in logged] == pytest.approx([0.75] * 3), "these maps are foreground alone"


def test_draw__alpha_max_is_what_alpha_ends_at(tmp_path):
    write_maps(tmp_path / "arm")
    arm = ARMS["semmae"].model_copy(update={"alpha_max": 0.5})
    masks = ArmMasks(tmp_path / "arm", arm, ids=IDS, ratio=0.75, hint_share=0.1)
    assert [draw(masks, progress)[1]["alpha"] for progress in (0.0, 0.5, 1.0)] == [0.0, 0.125, 0.5]


def test_draw__semantic_masks_depend_on_the_maps_and_random_ones_have_none(tmp_path):
    drawn = {}
    for seed in (0, 1):
        write_maps(tmp_path / f"arm{seed}", seed=seed)
        drawn[seed] = draw(make(tmp_path / f"arm{seed}", "semmae"))[0]
    assert not torch.equal(drawn[0], drawn[1])
    write_none(tmp_path / "none")
    assert make(tmp_path / "none", "mae").maps(np.arange(3)) is None


def test_draw__follows_the_images_and_not_their_order(tmp_path):
    labels = write_maps(tmp_path / "arm")
    masks = make(tmp_path / "arm", "semmae", ids=IDS[::-1].copy())
    assert np.array_equal(masks.maps(np.array([0, 38])).numpy(), labels[[-1, 1]])


def test_draw__attmask_high_hides_the_most_attended(tmp_path):
    ranks = write_maps(tmp_path / "arm", kind="ranks")
    mask, _ = draw(make(tmp_path / "arm", "attmask_high"))
    flat = torch.from_numpy(ranks.reshape(40, 64).astype(np.int64))
    for row in range(40):
        assert flat[row][mask[row]].min() >= flat[row][~mask[row]].max()


def test_arm_masks__masks_of_other_images_are_refused(tmp_path):
    write_maps(tmp_path / "arm")
    with pytest.raises(ValueError, match="id 999 is not in .*masks are of other images"):
        make(tmp_path / "arm", "semmae", ids=np.array([999], np.uint64))


def test_arm_masks__maps_of_another_kind_are_refused(tmp_path):
    write_maps(tmp_path / "arm")
    with pytest.raises(ValueError, match="holds labels, mask attmask_high needs ranks"):
        make(tmp_path / "arm", "attmask_high")


def test_arm_masks__maps_of_another_version_are_refused(tmp_path):
    write_none(tmp_path / "arm", VERSION + 1)
    with pytest.raises(ValueError, match=f"version {VERSION + 1}, expected {VERSION}"):
        make(tmp_path / "arm", "mae")


def test_draw__equal_generators_give_equal_masks(tmp_path):
    write_none(tmp_path / "arm")
    first, second, other = (draw(make(tmp_path / "arm", "mae"), step=step)[0] for step in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
