import dataclasses
from pathlib import Path

import pytest
import torch

from config.params import load_params
from images.stream import TrainingImages
from jobs.cluster.distributed import ALONE, Processes
from shards.image_shards import ImageShards
from training.compute import set_up
from training.masks import ArmMasks
from training.optimiser import AdamW, decay_groups
from training.pretraining import Pretraining


def pretraining(world: Path, processes=ALONE, *, name="semmae", micro_batch=0, **changes):
    """Pretraining of an arm in the tiny world, with a batch of 7."""
    params = load_params(world / "params.yaml")
    group, arm = params.pretrain.model_copy(update={"batch_size": 7, **changes}), params.arms.definitions[name]
    images = TrainingImages(ImageShards(world / "data/shards", "train"), group.decode_size, window=32, ram_gib=0.0)
    masks = ArmMasks(world / f"arms/{name}", arm, ids=images.ids, ratio=group.mask_ratio, hint_share=0.1)
    compute = set_up(**{**params.compute.model_dump(), "micro_batch": micro_batch})
    return Pretraining(images, masks, group, label="pretrain", seed=0, compute=compute, processes=processes)


@pytest.mark.parametrize("world_size", [2, 3])
def test_prepare__the_parts_of_all_processes_are_the_batch_of_one(world, world_size):
    alone = pretraining(world, predicted=0.5)
    parts = [pretraining(world, Processes(rank, world_size), predicted=0.5) for rank in range(world_size)]
    for number in (0, 3, alone.steps - 1):
        whole, shares = alone.prepare(number), [part.prepare(number) for part in parts]
        assert torch.equal(torch.cat([share.images for share in shares]), whole.images)
        assert torch.equal(torch.cat([share.visible for share in shares]), whole.visible)
        assert torch.equal(torch.cat([share.predicted for share in shares]), whole.predicted)
        mean = sum(share.logged["hidden_ratio_std"] * len(share.images) for share in shares) / 7
        assert mean == pytest.approx(whole.logged["hidden_ratio_std"], rel=1e-5)


def test_prepare__a_process_reads_the_images_of_its_part_alone(world, monkeypatch):
    part, read = pretraining(world, Processes(1, 3)), []
    shards, masks = part.images.shards, part.masks
    inner, rows = shards.bytes, masks.cache.rows
    monkeypatch.setattr(shards, "bytes", lambda row: read.append(int(row)) or inner(row))
    asked = []
    monkeypatch.setattr(masks.cache, "rows", lambda ids: asked.extend(ids.tolist()) or rows(ids))
    part.prepare(2)
    own = part.order.rows(14, 7)[2:4]
    assert read == own.tolist()
    assert asked == part.images.ids[own].tolist()


def test_prepare__arms_of_a_seed_predict_the_same_patches_where_they_hide_the_same(world):
    semmae, mae = (pretraining(world, name=name, predicted=0.5).prepare(2) for name in ("semmae", "mae"))
    all_of_mae, semmae_patches = pretraining(world, name="mae").prepare(2), 16
    assert all_of_mae.predicted.shape[1] + all_of_mae.visible.shape[1] == semmae_patches
    assert torch.equal(mae.visible, all_of_mae.visible), "masks have a stream of their own"
    shared = hidden_by_both = 0
    for seen, some, seen_by_mae, some_of_mae in zip(*semmae[1:3], *mae[1:3], strict=True):
        assert not set(some.tolist()) & set(seen.tolist())
        assert len(some) == round(0.5 * (semmae_patches - len(seen)))
        shared += len(set(some.tolist()) & set(some_of_mae.tolist()))
        hidden_by_both += len(set(range(semmae_patches)) - set(seen.tolist()) - set(seen_by_mae.tolist()))
    # Two independent halves would share a quarter.
    assert shared > 0.4 * hidden_by_both


def test_losses__micro_batches_have_the_loss_and_gradient_of_the_whole(world):
    whole, split = (
        pretraining(world, micro_batch=size, decoder="cross", depth=2, feature_maps=2, predicted=0.5) for size in (0, 3)
    )
    gradients = []
    for task in (whole, split):
        total = sum(task.losses(task.prepare(1)))
        total.backward()
        block = task.model.decoder_blocks[0]
        gradients.append((total.detach(), block.cross_attn.qkv.weight.grad, block.maps.grad))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


def test_step__the_host_reads_nothing_of_what_the_device_computes(world):
    """The meta device computes shapes alone: what reads a value there is an error."""
    task = pretraining(world, decoder="cross", predicted=0.5)
    task.model.to_empty(device="meta")
    task.optimizer = AdamW(decay_groups(task.model, 0.05), lr=0.1)
    task.compute = dataclasses.replace(task.compute, device=torch.device("meta"), micro_batch=3)
    metrics = task.step(1)
    assert metrics["loss"].is_meta and metrics["gradient_norm"].is_meta
    with pytest.raises(RuntimeError):
        float(metrics["loss"])
