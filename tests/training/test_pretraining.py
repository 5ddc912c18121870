from pathlib import Path

import pytest
import torch

from config.params import load_params
from images.stream import TrainingImages
from jobs.cluster.distributed import ALONE, Processes
from shards.image_shards import ImageShards
from training.compute import set_up
from training.masks import ArmMasks
from training.pretraining import Pretraining


def pretraining(world: Path, processes=ALONE):
    """Pretraining of semmae in the tiny world, with a batch of 7."""
    params = load_params(world / "params.yaml")
    group, arm = params.pretrain.model_copy(update={"batch_size": 7}), params.arms.definitions["semmae"]
    images = TrainingImages(ImageShards(world / "data/shards", "train"), group.decode_size, window=32, ram_gib=0.0)
    masks = ArmMasks(world / "arms/semmae", arm, ids=images.ids, ratio=group.mask_ratio, hint_share=0.1)
    compute = set_up(**params.compute.model_dump())
    return Pretraining(images, masks, group, label="pretrain", seed=0, compute=compute, processes=processes)


@pytest.mark.parametrize("world_size", [2, 3])
def test_prepare__the_parts_of_all_processes_are_the_batch_of_one(world, world_size):
    alone = pretraining(world)
    parts = [pretraining(world, Processes(rank, world_size, torch.device("cpu"))) for rank in range(world_size)]
    for number in (0, 3, alone.steps - 1):
        whole, shares = alone.prepare(number), [part.prepare(number) for part in parts]
        assert torch.equal(torch.cat([share.images for share in shares]), whole.images)
        assert torch.equal(torch.cat([share.mask for share in shares]), whole.mask)
        mean = sum(share.logged["hidden_ratio_std"] * len(share.images) for share in shares) / 7
        assert mean == pytest.approx(whole.logged["hidden_ratio_std"], rel=1e-5)


def test_prepare__a_process_reads_the_images_of_its_part_alone(world, monkeypatch):
    part, read = pretraining(world, Processes(1, 3, torch.device("cpu"))), []
    shards, masks = part.images.shards, part.masks
    inner, rows = shards.bytes, masks.cache.rows
    monkeypatch.setattr(shards, "bytes", lambda row: read.append(int(row)) or inner(row))
    asked = []
    monkeypatch.setattr(masks.cache, "rows", lambda ids: asked.extend(ids.tolist()) or rows(ids))
    part.prepare(2)
    own = part.order.rows(14, 7)[2:4]
    assert read == own.tolist()
    assert asked == part.images.ids[own].tolist()
