"""Every stage in the tiny world: what it leaves behind, and what depends on what."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from config.params import load_params, read_yaml
from config.presets import read_document, write_params
from evaluation.predictions import read_predictions
from jobs.fingerprint import digest_of
from models.mae import MaskedAutoencoder
from models.vit import initialise
from shards.files import read_json
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache, MaskCacheWriter
from tests.conftest import ROOT, expand, run_stage
from training.pretraining import ARCHITECTURE
from training.randomness import generator


def outs_of(label, params):
    """Paths that dvc.yaml promises of a job."""
    stage_name, _, item = label.partition("@")
    stage = read_yaml(ROOT / "dvc.yaml")["stages"][stage_name]
    values = dict(zip(stage.get("matrix", {}), item.split("-"), strict=True)) if item else {}
    for group in ("outs", "metrics"):
        for out in stage.get(group, []):
            path = out if isinstance(out, str) else next(iter(out))
            for name, value in values.items():
                path = path.replace(f"${{item.{name}}}", value)
            yield path


def test_stages__write_every_out_that_dvc_yaml_promises(world):
    params = load_params(world / "params.yaml")
    for label, _, _ in expand(params=params):
        for out in outs_of(label, params):
            assert (world / out).exists(), f"{label}: {out}"


def test_stages__leave_no_scratch_and_no_temporary_files(world):
    assert not list((world / ".semmae").glob("scratch/*"))
    assert not list(world.rglob("*.tmp"))


def test_stages__metrics_are_flat_finite_numbers(world):
    for path in (world / "metrics").rglob("*.json"):
        for name, value in read_json(path).items():
            assert isinstance(value, int | float) and np.isfinite(value), (path, name)


def test_stages__history_rows_have_ascending_steps(world):
    for path in (world / "history").rglob("*.json"):
        steps = [row["step"] for row in json.loads(path.read_text())]
        assert steps == sorted(set(steps)), path
        assert steps, path


def test_masks__cover_every_image_of_every_split(world):
    from shards.image_shards import ImageShards

    ids = np.concatenate([ImageShards(world / "data/shards", split).ids for split in ("train", "val", "test")])
    for name in ("raw", "learned"):
        assert np.array_equal(np.sort(MaskCache(world / "masks" / name).ids), np.sort(ids))


def test_pretrain__masks_of_other_images_change_semmae_and_leave_mae_identical(copied_world):
    """The masks reach SemMAE by image, and MAE not at all."""
    jobs = ("semmae-0", "mae-0")
    before = {job: digest_of(copied_world / "pretrained" / job) for job in jobs}
    cache = MaskCache(copied_world / "masks/learned")
    ids, labels = cache.ids, cache.rows(cache.ids)
    shutil.rmtree(copied_world / "masks/learned")
    with MaskCacheWriter(copied_world / "masks/learned", header=cache.header, shard_rows=50) as writer:
        writer.add(ids, np.roll(labels, 1, axis=0))
    for job in jobs:
        arm, seed = job.split("-")
        run_stage(copied_world, "stages.select_masks", [arm])
        run_stage(copied_world, "stages.pretrain", [arm, seed])
    assert digest_of(copied_world / "pretrained/semmae-0") != before["semmae-0"]
    assert digest_of(copied_world / "pretrained/mae-0") == before["mae-0"]


def test_pretrain__the_spread_over_parts_rises_with_the_schedule(world):
    metrics = read_json(world / "metrics/pretrain/raw_attention-0.json")
    assert metrics["hidden_ratio_std_end"] > metrics["hidden_ratio_std_start"] + 0.1


def test_pretrain__seeds_and_arms_differ(world):
    digests = {digest_of(path) for path in (world / "pretrained").iterdir()}
    assert len(digests) == 6


def test_refine_parts__keeps_a_decoder_only_where_a_loss_trained_it(copied_world):
    assert (copied_world / "part_learner/decoder/config.json").is_file()
    document = read_document(copied_world / "params.yaml")
    document["refine"].update({"reconstruction_weight": 0.0, "epochs": 1})
    write_params(document, copied_world / "params.yaml")
    run_stage(copied_world, "stages.refine_parts")
    assert sorted(path.name for path in (copied_world / "part_learner").iterdir()) == [
        "config.json", "manifest.json", "model.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs: 5", "error: pretrain: params.yaml: pretrain.epochs: got 'many'"),
        (None, "error: pretrain: arms/semmae: not found"),
    ],
)
def test_stage__a_mistake_is_one_line_and_exit_1(copied_world, change, message):
    if change:
        text = (copied_world / "params.yaml").read_text()
        (copied_world / "params.yaml").write_text(text.replace(change, "epochs: many"))
    else:
        shutil.rmtree(copied_world / "arms" / "semmae")
    command = [sys.executable, "-m", "stages.pretrain", "semmae", "0"]
    ended = subprocess.run(command, cwd=copied_world, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines() == [next(line for line in ended.stderr.splitlines() if message in line)]


@pytest.mark.slow
def test_untrained__is_the_floor_that_no_mask_and_no_part_touches(copied_world):
    """Weights as they were drawn, the same as every arm of the seed starts from, through every later stage."""
    document = read_document(copied_world / "params.yaml")
    document["arms"]["names"] = ["semmae", "mae", "untrained"]
    document["seeds"] = [0]
    write_params(document, copied_world / "params.yaml")
    run_stage(copied_world, "stages.select_masks", ["untrained"])
    for stage in ("pretrain", "probe", "finetune"):
        run_stage(copied_world, f"stages.{stage}", ["untrained", "0"])
    weights = load_file(copied_world / "pretrained/untrained-0/model.safetensors")
    params = load_params(copied_world / "params.yaml")
    model = MaskedAutoencoder(**{name: getattr(params.pretrain, name) for name in ARCHITECTURE})
    initialise(model, generator(0, "weights"))
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    run_stage(copied_world, "stages.compare")
    page = (copied_world / "report/report.html").read_text()
    assert "untrained" in page
    assert read_json(copied_world / "report/metrics.json")["untrained/linear_accuracy/mean"] >= 0
    assert not (copied_world / "report/figures/masks_untrained.png").exists()


def test_probe__predictions_agree_with_the_metrics(world):
    metrics = read_json(world / "metrics/probe/mae-0.json")
    predictions = read_predictions(world / "metrics/predictions/probe/mae-0.parquet")
    assert np.array_equal(predictions.ids, ImageShards(world / "data/shards", "test").ids)
    for name in predictions.classes:
        assert np.nanmean(predictions.correct(name)) == pytest.approx(metrics[name])
    assert {"attentive_accuracy", "low_shot_20_accuracy"} <= set(predictions.classes)
