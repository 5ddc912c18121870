"""The masks of an image shard are made once, and are the same bytes however they were reached."""

import io
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import training.part_labels
from models.part_learner import PartLearner
from parts.attention import extract_all
from shards.arrays import ArrayShards
from shards.files import read_json, write_text
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache
from shards.row_index import SPLITS
from tests.conftest import ROOT, run_stage
from tests.stages.streaming import (
    LEARNER,
    SPLIT_IMAGES,
    counted_run,
    flip,
    names,
    write_images,
    write_job,
    write_job_params,
    write_job_teacher,
    write_learner,
)
from training.teacher import FrozenTeacher


@pytest.fixture
def job(tmp_path):
    return write_job(tmp_path, "cache_masks")


@pytest.fixture
def run(job, monkeypatch):
    """Run the stage; returns the names of the image shards that were labelled."""
    return counted_run(job, monkeypatch, training.part_labels, "label_shard")


def outs(job):
    """Bytes of every file that the stage promises."""
    files = [*(job / "masks/learned").iterdir(), job / "metrics/cache_masks.json"]
    return {path.relative_to(job).as_posix(): path.read_bytes() for path in files}


def kept_shards(job):
    return sorted((job / ".semmae/shards/cache_masks").glob("*/*/shard-*.parquet"))


def from_nothing(job):
    """The outs of a run that finds no shard of an earlier one."""
    shutil.rmtree(job / ".semmae")
    run_stage(job, "stages.cache_masks")
    return outs(job)


def test_labels__are_those_of_each_image_alone_and_metrics_count_them(job, run):
    assert run() == names(job)
    cache = MaskCache(job / "masks/learned")
    assert cache.num_shards == len(names(job)) > 6
    teacher = FrozenTeacher(job / "teacher", torch.device("cpu"))
    torch.manual_seed(0)
    learner = PartLearner(**LEARNER).eval()
    expected = {}
    for split in SPLITS:
        shards = ImageShards(job / "data/shards", split)
        for row, image_id in enumerate(shards.ids):
            pixels = np.array(Image.open(io.BytesIO(shards.bytes(row)))).transpose(2, 0, 1)[None] / 255
            found = extract_all(teacher.vit, (torch.tensor(pixels).float() - 0.5) / 0.2, token_layer=1)
            labels = learner(found.cls_input, found.patch_tokens).argmax(dim=1)[0].numpy()
            # In half precision, as it is stored.
            expected[int(image_id)] = labels, found.cls_attention.half().float().mean(dim=1)[0].numpy()
    assert sorted(expected) == sorted(cache.ids.tolist())
    counts = np.zeros(4)
    for image_id, (labels, attention) in expected.items():
        mask = cache[image_id]
        parts = mask < 3
        assert np.array_equal(mask[parts], labels[parts])
        assert attention.reshape(4, 4)[parts].min() >= attention.reshape(4, 4)[~parts].max()
        counts += np.bincount(mask.ravel(), minlength=4)
    assert (counts > 0).all()
    metrics = read_json(job / "metrics/cache_masks.json")
    assert metrics.pop("images") == len(expected) == 54
    shares = [*(metrics[f"share/part_{part}"] for part in range(3)), metrics["share/background"]]
    assert np.allclose(shares, counts / counts.sum(), atol=1e-12)


def test_labels__from_stored_tokens_are_the_bytes_of_those_that_the_teacher_is_asked_for(job, run, monkeypatch):
    def labelled(token_gib):
        write_job_params(job, token_gib=token_gib)
        run_stage(job, "stages.extract_attention")
        shutil.rmtree(job / ".semmae" / "shards" / "cache_masks", ignore_errors=True)
        assert run() == names(job)
        return outs(job)

    asked, ask = [], training.part_labels.extract_all
    monkeypatch.setattr(
        training.part_labels, "extract_all", lambda *words, **options: asked.append(1) or ask(*words, **options)
    )
    fresh = labelled(token_gib=0.0)
    assert asked
    asked.clear()
    assert labelled(token_gib=1.0) == fresh and not asked
    assert len(ArrayShards(job / "attention/tokens")) == 54
    write_job_params(job, token_gib=1.0, token_layer=0)
    run_stage(job, "stages.extract_attention")
    shutil.rmtree(job / ".semmae" / "shards" / "cache_masks")
    run_stage(job, "stages.cache_masks")
    assert outs(job) == fresh and asked, "tokens of another layer are not the learner's"


def test_more_images__cost_the_last_shard_and_new_ones(job, run, capsys):
    run()
    before = names(job)
    write_images(job, {**SPLIT_IMAGES, "train": 46})
    last = [name for name in before if name.startswith("train")][-1]
    new = [name for name in names(job) if name not in before]
    assert run() == [last, *new]
    assert f"{len(before) - 1} of {len(before) + len(new)} shards are reused" in capsys.readouterr().out
    grown = outs(job)
    assert read_json(job / "metrics/cache_masks.json")["images"] == 60
    assert grown == from_nothing(job)
    assert len(kept_shards(job)) == len(names(job))


def test_fewer_images__leave_no_shard_of_those_that_are_gone(job, run):
    run()
    write_images(job, {**SPLIT_IMAGES, "train": 10})
    run()
    assert len(kept_shards(job)) == len(names(job))
    assert outs(job) == from_nothing(job)


def test_nothing_changed__links_everything_whatever_became_of_the_outs(job, run):
    run()
    first = outs(job)
    for path in (job / "masks/learned").iterdir():
        path.chmod(0o444)
    shutil.rmtree(job / "masks")
    assert run() == []
    assert outs(job) == first
    for shard in kept_shards(job):
        assert os.stat(shard).st_nlink == 2


def test_copies__are_the_same_bytes_where_links_are_impossible(job, run, monkeypatch):
    run()
    linked = outs(job)

    def refuse(source, target):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert run() == []
    assert outs(job) == linked
    assert all(os.stat(path).st_nlink == 1 for path in (job / "masks/learned").iterdir())


KILL = """
import os, signal
import training.part_labels as work
from stages.cache_masks import main
label, seen = work.label_shard, []
def killed(labeller, image_shard, target, **options):
    seen.append(image_shard)
    for images in label(labeller, image_shard, target, **options):
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield images
work.label_shard = killed
main()
"""


@pytest.mark.slow
def test_kill__the_next_run_continues_at_the_shard_that_was_not_finished(job, run):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    ended = subprocess.run([sys.executable, "-c", KILL], cwd=job, env=environment, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not (job / "masks").exists()
    assert list(job.rglob("*.tmp"))
    assert run() == names(job)[2:]
    assert not list(job.rglob("*.tmp"))
    assert outs(job) == from_nothing(job)


def change_manifest(path, old, new):
    manifest = path.parent / "manifest.json"
    assert old in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(old, new))


DAMAGE = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
    "no_manifest": lambda path: (path.parent / "manifest.json").unlink(),
    "half_a_manifest": lambda path: (path.parent / "manifest.json").write_text("{"),
    "other_manifest": lambda path: (path.parent / "manifest.json").write_text("[]"),
    "other_header": lambda path: change_manifest(path, '"num_parts": 3', '"num_parts": 2'),
    "other_rows": lambda path: change_manifest(path, '"rows": ', '"rows": 1'),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage__of_a_kept_shard_is_found_and_that_shard_made_again(job, run, kind):
    run()
    whole = outs(job)
    DAMAGE[kind](kept_shards(job)[1])
    assert len(run()) == 1
    assert outs(job) == whole
    assert run() == []


def test_damage__through_an_out_that_is_a_link_is_found_too(job, run):
    run()
    whole = outs(job)
    flip(job / "masks/learned/shard-00002.parquet")
    assert run() == [names(job)[2]]
    assert outs(job) == whole


@pytest.mark.parametrize("change", ["part_learner", "teacher", "batch_size", "threads", "code"])
def test_reuse__ends_where_anything_else_changes(job, run, change):
    run()
    count = len(kept_shards(job))
    if change == "part_learner":
        write_learner(job, 1)
    elif change == "teacher":
        write_job_teacher(job, mean=0.4)
    elif change == "code":
        write_text(job / "stages/cache_masks.py", "VERSION = 2\n")
    else:
        write_job_params(job, **{change: {"batch_size": 5, "threads": 2}[change]})
    assert run() == names(job)
    assert len(kept_shards(job)) == count
    assert outs(job) == from_nothing(job)
