import numpy as np
import pytest

from config.arms import Arm
from parts.schedules import alpha_at
from reports.mask_statistics import ALPHAS, POINTS, draw, hidden_shares, shown_progress
from shards.mask_cache import MaskCacheWriter
from tests.reports.conftest import write_no_masks
from training.masks import ArmMasks

IDS = np.arange(1, 61, dtype=np.uint64)
GRID, PARTS = (8, 8), 4
SEMMAE = Arm(mask="parts", parts="learned", schedule="intra_to_inter", gamma=2.0, background="part")
MAE = Arm(mask="random", parts="none", schedule="intra_to_inter", gamma=2.0, background="part")


@pytest.fixture
def arms(tmp_path):
    """Folders of both arms; every image is four quadrants, turned by its number, so that parts are 16 patches."""
    quadrants = np.kron(np.arange(4).reshape(2, 2), np.ones((4, 4), dtype=int))
    labels = np.stack([np.rot90(quadrants, number) for number in range(len(IDS))]).astype(np.uint8)
    header = {
        "grid": list(GRID), "patch_size": 4, "num_parts": PARTS, "background": None, "kind": "labels", "teacher": "",
        "part_learner": "",
    }  # fmt: skip
    with MaskCacheWriter(tmp_path / "semmae", header=header, shard_rows=20) as writer:
        writer.add(IDS, labels)
    write_no_masks(tmp_path / "mae")
    options = {"ids": IDS, "ratio": 0.75, "hint_share": 0.1}
    opened = {name: ArmMasks(tmp_path / name, arm, **options) for name, arm in (("semmae", SEMMAE), ("mae", MAE))}
    return opened, labels


def test_hidden_shares__the_spread_rises_with_the_schedule_and_stays_flat_without(arms):
    opened, labels = arms
    shares = {
        name: hidden_shares(masks, labels, num_parts=PARTS, grid=GRID, seeds=(0, 1)) for name, masks in opened.items()
    }
    found = {name: measured["spreads"] for name, measured in shares.items()}
    assert len(found["semmae"]) == len(POINTS)
    assert found["semmae"][0] < 0.01
    assert found["semmae"][-1] > 0.4
    assert found["semmae"] == sorted(found["semmae"])
    assert np.ptp(found["mae"]) < 0.02
    # Sixteen draws without replacement from 64 with 48 hidden: the spread of a share over four such parts.
    assert np.mean(found["mae"]) == pytest.approx(np.sqrt(0.75 * 0.25 / 16 * 48 / 63 * 3 / 4), abs=0.015)


def test_hidden_shares__are_measured_on_the_same_foreground_for_every_arm(arms):
    """With two quadrants as background, masks of whole quadrants hide three of four of them at the end, as random ones do."""
    opened, labels = arms
    for masks in opened.values():
        found = hidden_shares(masks, np.minimum(labels, 2), num_parts=2, grid=GRID, seeds=(0, 1))
        assert found["foreground"] == pytest.approx([0.75] * len(POINTS), abs=0.05)
        assert found["loss"] == pytest.approx([0.5] * len(POINTS), abs=0.04), (
            "half of the patches, hidden as often as the rest"
        )


def test_draw__is_a_pure_function_of_seed_and_progress(arms):
    masks = arms[0]["semmae"]
    first, alpha = draw(masks, 10, grid=GRID, progress=0.5, seed=3)
    again, _ = draw(masks, 10, grid=GRID, progress=0.5, seed=3)
    other, _ = draw(masks, 10, grid=GRID, progress=0.5, seed=4)
    assert first.equal(again)
    assert not first.equal(other)
    assert alpha == 0.25
    assert (first.sum(dim=1) == 48).all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 3.0])
def test_shown_progress__is_where_alpha_has_the_shown_values(gamma):
    found = [alpha_at(at, schedule="intra_to_inter", gamma=gamma) for at in shown_progress(gamma)]
    assert found == pytest.approx(ALPHAS)
