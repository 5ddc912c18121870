"""Every stage in the tiny world: what it leaves behind, and what depends on what."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from pipeline.files import read_json
from pipeline.fingerprint import digest_of
from pipeline.params import load_params, read_yaml
from pipeline.presets import read_document, write_params
from pipeline.shards import MaskCache, MaskCacheWriter
from tests.conftest import ROOT, expand, run_stage


def outs_of(label, params):
    """Paths that dvc.yaml promises of a job."""
    stage_name, _, item = label.partition("@")
    stage = read_yaml(ROOT / "dvc.yaml")["stages"][stage_name]
    arm, _, seed = item.partition("-")
    for group in ("outs", "metrics", "plots"):
        for out in stage.get(group, []):
            path = out if isinstance(out, str) else next(iter(out))
            yield path.replace("${item.arm}", arm).replace("${item.seed}", seed)


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
    from pipeline.image_shards import ImageShards

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
        "config.json", "model.safetensors",
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
