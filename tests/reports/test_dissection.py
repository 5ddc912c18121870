import numpy as np
import pytest
import torch

from reports.dissection import dissect, load_decoder
from shards.arrays import ArrayShards
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache
from tests.reports.conftest import GRID, PARTS, write_part_model
from training.part_labels import FrozenParts
from training.teacher import FrozenTeacher

CPU = torch.device("cpu")


def seen_by(root, shards, rows):
    teacher, parts = FrozenTeacher(root / "teacher", CPU), FrozenParts(root / "part_learner", CPU)
    return dissect([shards.bytes(row) for row in rows], teacher, parts, load_decoder(root / "part_learner", CPU))


def test_dissect__maps_are_shares_and_labels_their_largest(outs):
    seen = seen_by(outs, ImageShards(outs / "data/shards", "test"), range(3))
    assert seen.heads.shape == (3, 3, *GRID) and seen.shares.shape == (3, PARTS + 1, *GRID)
    assert np.allclose(seen.shares.sum(axis=1), 1, atol=1e-5) and seen.shares.min() >= 0
    assert (seen.labels == seen.shares.argmax(axis=1)).all()
    assert (seen.heads.sum(axis=(2, 3)) < 1).all()
    assert seen.rebuilt.shape == (3, 16, 16, 3) and seen.rebuilt.dtype == np.uint8


def test_dissect__agrees_with_what_the_stages_stored(world):
    shards = ImageShards(world / "data/shards", "test")
    seen = seen_by(world, shards, range(5))
    ids = shards.ids[:5]
    assert (seen.labels == MaskCache(world / "masks/learned").rows(ids)).all()
    stored = ArrayShards(world / "attention/all").rows(ids, "cls_attention").reshape(seen.heads.shape)
    assert np.allclose(seen.heads, stored, atol=1e-3)


def test_dissect__without_a_trained_decoder_nothing_is_rebuilt(outs, tmp_path):
    write_part_model(tmp_path, background="attention_mass", decodes=False)
    seen = seen_by(tmp_path, ImageShards(outs / "data/shards", "test"), range(2))
    assert seen.rebuilt is None
    assert seen.shares.shape[1] == PARTS
    assert set(np.unique(seen.labels)) <= set(range(PARTS + 1)) and (seen.labels == PARTS).any()


def test_dissect__a_part_learner_of_another_teacher_is_refused(outs):
    teacher, parts = FrozenTeacher(outs / "teacher", CPU), FrozenParts(outs / "part_learner", CPU)
    parts.width = 99
    with pytest.raises(ValueError, match="99 wide, the teacher's are 24; run"):
        dissect([], teacher, parts, None)
