"""One process and several: the same draws, the same images, the same curve."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from config.params import load_params
from config.presets import read_document, write_params
from evaluation.finetuning import Finetuning, _random_erasing, erase, rows_of
from evaluation.predictions import read_predictions
from images.dataset import WholeImages
from images.stream import TrainingImages
from jobs.cluster.distributed import ALONE, Processes
from models.vit import VisionTransformer, initialise
from shards.image_shards import ImageShards
from tests.jobs.cluster.conftest import (
    JOB,
    assert_same_bits,
    children,
    finish,
    start,
    wait_for_checkpoint,
    write_runtime,
)
from training.compute import set_up
from training.encoders import ENCODER_KEYS, save_model

# All that draws: of six images, three pairs, two processes have one and two.
EVERYTHING = {
    "batch_size": 6, "epochs": 3, "mixup": 0.8, "cutmix": 1.0, "random_erasing": 0.5, "ema": 0.8, "drop_path": 0.4,
}  # fmt: skip


def write_encoder(folder, pretrain):
    """A random encoder in the place of the pretrained one, which has one block: drop path spares the first."""
    config = {name: getattr(pretrain, name) for name in ENCODER_KEYS} | {"depth": 3}
    encoder = VisionTransformer(**config)
    initialise(encoder, torch.Generator().manual_seed(0))
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, encoder, config)


def finetuning(world, folder, processes=ALONE, **changes):
    """Finetuning of the tiny world from three random blocks."""
    params = load_params(world / "params.yaml")
    write_encoder(folder, params.pretrain)
    images = TrainingImages(
        ImageShards(world / "data/shards", "train"), params.pretrain.decode_size, window=32, ram_gib=0.0
    )
    return Finetuning(
        images,
        folder,
        params.finetune.model_copy(update={**EVERYTHING, **changes}),
        label="finetune",
        crop_ratio=params.pretrain.crop_ratio,
        seed=0,
        compute=set_up(**params.compute.model_dump()),
        processes=processes,
    )


def shared(world, folder, world_size, **changes):
    """What each of so many processes has."""
    parts = [Processes(rank, world_size) for rank in range(world_size)]
    return [finetuning(world, folder, part, **changes) for part in parts]


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_rows_of__all_processes_are_the_batch_once_and_pairs_stay_together(world, mixes, world_size):
    group = load_params(world / "params.yaml").finetune.model_copy(
        update={"batch_size": 8, "mixup": 0.0, "cutmix": float(mixes)}
    )
    parts = [rows_of(Processes(rank, world_size), group) for rank in range(world_size)]
    assert sorted(torch.cat(parts).tolist()) == list(range(8))
    sizes = [len(rows) for rows in parts]
    assert max(sizes) - min(sizes) <= (2 if mixes else 1)
    for rows in parts:
        assert torch.equal(rows, rows.sort().values)
        assert not mixes or torch.equal(7 - rows, rows.flip(0))


def test_erase__one_process_and_two_draw_the_same():
    views = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole, halves, rows = views.clone(), views.clone(), torch.arange(8)
    state = torch.get_rng_state()
    erase(whole, rows, _random_erasing(0.5), (0, "erasing", 3))
    for half in (slice(4, 8), slice(0, 4)):
        erase(halves[half], rows[half], _random_erasing(0.5), (0, "erasing", 3))
    assert torch.equal(whole, halves)
    assert 0 < (whole != views).flatten(1).any(dim=1).sum() < 8
    assert torch.equal(torch.get_rng_state(), state)
    erase(other := views.clone(), rows, _random_erasing(0.5), (0, "erasing", 4))
    assert not torch.equal(whole, other)


@pytest.mark.parametrize("changes", [{}, {"batch_size": 7, "mixup": 0.0, "cutmix": 0.0}])
@pytest.mark.parametrize("world_size", [2, 3])
def test_augment__the_parts_of_all_processes_are_the_batch_of_one(world, tmp_path, world_size, changes):
    alone = finetuning(world, tmp_path, **changes)
    parts = shared(world, tmp_path, world_size, **changes)
    for number in range(4):
        torch.manual_seed(number)
        views, targets = alone.augment(number, *alone.prepare(number))
        state = torch.get_rng_state()
        for part in parts:
            torch.manual_seed(number)
            mine, wanted = part.augment(number, *part.prepare(number))
            assert torch.equal(mine, views[part.rows]) and torch.equal(wanted, targets[part.rows])
            # From here on drop path draws.
            assert torch.equal(torch.get_rng_state(), state)


def test_prepare__a_process_reads_the_images_of_its_pairs_alone(world, tmp_path, monkeypatch):
    part, read = shared(world, tmp_path, 3)[1], []
    inner = part.images.shards.bytes
    monkeypatch.setattr(part.images.shards, "bytes", lambda row: read.append(int(row)) or inner(row))
    part.prepare(2)
    assert read == part.order.rows(12, 6)[[1, 4]].tolist()


def test_step__the_gradients_of_all_processes_add_up_to_those_of_one(world, tmp_path, monkeypatch):
    """Drop path and the loss's share among them; without a sum each process has its own."""

    def gradients(task):
        torch.manual_seed(3)
        loss = float(task.step(1)["loss"])
        return loss, {name: weight.grad for name, weight in task.model.named_parameters() if weight.grad is not None}

    monkeypatch.setattr(Processes, "sum", lambda self, value: value)
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda weights, clip: torch.tensor(1.0))
    loss, whole = gradients(finetuning(world, tmp_path))
    losses, parts = zip(*map(gradients, shared(world, tmp_path, 2)), strict=True)
    assert sum(losses) == pytest.approx(loss, rel=1e-6) and min(losses) < 0.6 * loss
    for name, gradient in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), gradient, rtol=1e-4, atol=1e-6)


def test_predict_all__each_process_predicts_a_part_and_the_sum_is_the_prediction_of_one(world, tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, "sum", lambda self, value: value)
    alone, parts = finetuning(world, tmp_path), shared(world, tmp_path, 3)
    images = WholeImages(ImageShards(world / "data/shards", "test"), 32, workers=0)
    whole, said = alone.predict_all(images), []
    predict = Finetuning.predict
    asked = []
    monkeypatch.setattr(Finetuning, "predict", lambda self, pixels: asked.append(len(pixels)) or predict(self, pixels))
    said = [part.predict_all(images) for part in parts]
    assert len(set(whole.tolist())) > 1 and np.array_equal(sum(said), whole)
    assert sum(asked) == len(images) == 30


OUTS = (f"finetuned/{JOB}", f"history/finetune/{JOB}.json", f"metrics/finetune/{JOB}.json")
PREDICTIONS = f"metrics/predictions/finetune/{JOB}.parquet"


def make_finetune(folder, **compute):
    """The tiny world without what this fine-tuning makes, with everything that draws, a checkpoint every step."""
    for path in (*OUTS, PREDICTIONS):
        target = folder / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    shutil.rmtree(folder / "pretrained" / JOB)
    write_encoder(folder / "pretrained" / JOB, load_params(folder / "params.yaml").pretrain)
    document = read_document(folder / "params.yaml")
    document["finetune"].update(EVERYTHING)
    document["compute"].update(compute)
    write_params(document, folder / "params.yaml")
    write_runtime(folder, checkpoint_seconds=0)
    return folder


def outcome(folder):
    """History, weights, metrics and predicted classes."""
    weights, history, metrics = (folder / out for out in OUTS)
    said = read_predictions(folder / PREDICTIONS).classes["finetune_accuracy"]
    return (
        json.loads(history.read_text()),
        load_file(weights / "model.safetensors"),
        json.loads(metrics.read_text()),
        said,
    )


@pytest.fixture(scope="module")
def two_processes(world, tmp_path_factory):
    """What two processes make of the job, unbroken."""
    folder = Path(shutil.copytree(world, tmp_path_factory.mktemp("two") / "world", symlinks=True))
    finish(start(make_finetune(folder, world_size=2), "finetune"))
    assert not list((folder / ".semmae" / "scratch").glob("*"))
    return outcome(folder)


@pytest.mark.slow
def test_finetune__two_processes_give_the_curve_and_the_predictions_of_one(copied_world, two_processes):
    finish(start(make_finetune(copied_world), "finetune"))
    alone = outcome(copied_world)
    assert len(alone[0]) > 20 and [row["step"] for row in alone[0]] == [row["step"] for row in two_processes[0]]
    for mine, theirs in zip(alone[0], two_processes[0], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    for name, weight in alone[1].items():
        atol = 1e-3 * max(1.0, float(weight.abs().max()))
        torch.testing.assert_close(weight, two_processes[1][name], rtol=0, atol=atol)
    assert alone[2] == pytest.approx(two_processes[2], rel=1e-6)
    assert np.array_equal(alone[3], two_processes[3])


@pytest.mark.slow
def test_finetune__goes_on_by_itself_to_the_same_bits_when_a_process_is_killed(copied_world, two_processes):
    process = start(make_finetune(copied_world, world_size=2), "finetune")
    wait_for_checkpoint(process, copied_world, steps=3)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    assert "resumes at step" in finish(process)
    assert_same_bits(two_processes, found := outcome(copied_world))
    assert two_processes[2] == found[2] and np.array_equal(two_processes[3], found[3])
