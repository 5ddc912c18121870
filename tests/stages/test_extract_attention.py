"""What the teacher says of an image shard is asked once, and is the same bytes however it was reached."""

import io
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import training.extraction
from config.params import load_params
from jobs.kept_shards import folder_of
from parts.attention import extract_all
from shards.arrays import ArrayShards
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache
from shards.row_index import SPLITS
from stages.extract_attention import plan
from tests.conftest import run_stage
from tests.stages.streaming import (
    SPLIT_IMAGES,
    counted_run,
    flip,
    names,
    write_images,
    write_job,
    write_job_params,
    write_job_teacher,
)
from training.extraction import token_bound
from training.refining import load_part_tokens
from training.teacher import FrozenTeacher


@pytest.fixture
def job(tmp_path):
    return write_job(tmp_path, "extract_attention")


@pytest.fixture
def run(job, monkeypatch):
    """Run the stage; returns the names of the image shards that the teacher saw."""
    return counted_run(job, monkeypatch, training.extraction, "extract_shard")


def outs(job):
    """Bytes of every file that the stage promises."""
    files = [path for out in ("attention", "masks") for path in (job / out).rglob("*") if path.is_file()]
    return {path.relative_to(job).as_posix(): path.read_bytes() for path in files}


def kept(job, pattern):
    return sorted((job / ".semmae/shards/extract_attention").glob(f"*/*/{pattern}"))


def from_nothing(job):
    """The outs of a run that finds no shard of an earlier one."""
    shutil.rmtree(job / ".semmae")
    run_stage(job, "stages.extract_attention")
    return outs(job)


def wanted(job, count):
    return np.sort(ImageShards(job / "data/shards", "train").ids)[:count]


def test_outs__are_what_the_teacher_says_of_each_image_alone(job, run):
    assert run() == names(job)
    everything, tokens = ArrayShards(job / "attention/all"), ArrayShards(job / "attention/tokens")
    raw, teacher = MaskCache(job / "masks/raw"), FrozenTeacher(job / "teacher", torch.device("cpu"))
    bound = token_bound(np.sort(ImageShards(job / "data/shards", "train").ids), 12)
    assert np.array_equal(np.sort(tokens.ids), [image_id for image_id in wanted(job, 40) if int(image_id) < bound])
    assert len(tokens.ids) >= 12
    seen = []
    for split in SPLITS:
        shards = ImageShards(job / "data/shards", split)
        for row, image_id in enumerate(shards.ids):
            pixels = np.array(Image.open(io.BytesIO(shards.bytes(row)))).transpose(2, 0, 1)[None] / 255
            found = extract_all(teacher.vit, (torch.tensor(pixels).float() - 0.5) / 0.2, token_layer=1)
            stored = {name: everything.rows(np.array([image_id]), name) for name in everything.header["columns"]}
            if image_id in tokens.ids:
                stored["patch_tokens"] = tokens.rows(np.array([image_id]), "tokens")
            for name, value in stored.items():
                assert np.allclose(value.astype(np.float32), getattr(found, name).numpy(), atol=2e-3), name
            attention = found.cls_attention.numpy()[0].reshape(3, 4, 4)
            best = np.take_along_axis(attention, raw[int(image_id)][None].astype(int), axis=0)[0]
            assert np.allclose(best, attention.max(axis=0), atol=1e-6)
            seen.append(int(image_id))
    assert sorted(seen) == sorted(everything.ids.tolist()) == sorted(raw.ids.tolist())
    assert everything.num_shards == raw.num_shards == len(names(job)) > 6


def test_more_images__cost_the_last_shard_and_new_ones_even_where_they_displace_images_of_part_learning(job, run):
    write_job_params(job, part_images=14)
    run()
    before, old = names(job), set(wanted(job, 14).tolist())
    write_images(job, {**SPLIT_IMAGES, "train": 45})
    assert len(old - set(wanted(job, 14).tolist())) == 3, "the new images hold smaller ids"
    last = [name for name in before if name.startswith("train")][-1]
    assert run() == [last, *(name for name in names(job) if name not in before)]
    assert outs(job) == from_nothing(job)
    assert len(kept(job, "manifest.json")) == len(names(job))


def test_other_part_images__cost_the_training_shards_at_most(job, run):
    run()
    write_job_params(job, part_images=30)
    assert run() == [name for name in names(job) if name.startswith("train")]
    assert outs(job) == from_nothing(job)
    assert set(wanted(job, 30).tolist()) <= set(ArrayShards(job / "attention/tokens").ids.tolist())


def test_plan__has_the_tasks_that_a_run_makes_before_it_runs(job, run, monkeypatch):
    monkeypatch.chdir(job)

    def missing():
        fingerprint, tasks = plan(load_params(), "cpu")
        return [task.name for task in tasks if not (folder_of("extract_attention", fingerprint) / task.key).is_dir()]

    assert missing() == names(job) == run()
    write_images(job, {**SPLIT_IMAGES, "train": 46})
    expected = missing()
    assert 0 < len(expected) < len(names(job))
    assert run() == expected
    assert missing() == []


def test_nothing_changed__links_everything_whatever_became_of_the_outs(job, run):
    run()
    first = outs(job)
    shutil.rmtree(job / "attention")
    shutil.rmtree(job / "masks")
    assert run() == []
    assert outs(job) == first
    assert {os.stat(path).st_nlink for path in kept(job, "*/shard-*.parquet")} == {2}


@pytest.mark.parametrize(("file", "damage"), [
    ("all/shard-00000.parquet", flip), ("raw/manifest.json", os.unlink), ("tokens/manifest.json", os.unlink),
    ("manifest.json", flip),
])  # fmt: skip
def test_damage__of_a_kept_shard_is_found_and_that_shard_made_again(job, run, file, damage):
    run()
    whole = outs(job)
    place = kept(job, "manifest.json")[0].parent
    without = [path.parents[1] for path in kept(job, "tokens/manifest.json") if len(list(path.parent.iterdir())) == 1]
    place = without[0] if file.startswith("tokens") else place
    damage(place / file)
    assert len(run()) == 1
    assert outs(job) == whole
    assert run() == []


@pytest.mark.parametrize("change", ["teacher", "batch_size", "threads", "token_layer", "code"])
def test_reuse__ends_where_anything_else_changes(job, run, change):
    run()
    if change == "teacher":
        write_job_teacher(job, mean=0.4)
    elif change == "code":
        (job / "stages/extract_attention.py").write_text("VERSION = 2\n")
    else:
        write_job_params(job, **{change: {"batch_size": 5, "threads": 2, "token_layer": 0}[change]})
    assert run() == names(job)
    assert outs(job) == from_nothing(job)


def test_part_tokens__are_in_the_order_of_ids_whatever_that_of_the_shards(job, run):
    run()
    stored, ids = ArrayShards(job / "attention/tokens"), wanted(job, 12)
    assert not np.array_equal(stored.ids, ids)
    images = ImageShards(job / "data/shards", "train")
    done = []
    data = load_part_tokens(
        images, str(job / "attention"), most=12, size=16, workers=1, ram_gib=1.0, advance=done.append
    )
    assert len(stored.ids) >= 12 == len(data) == sum(done)
    assert np.array_equal(data.tokens.numpy(), stored.rows(ids, "tokens"))
    assert np.array_equal(data.cls_attention.numpy(), ArrayShards(job / "attention/all").rows(ids, "cls_attention"))
    for place, image_id in enumerate(ids):
        row = int(np.flatnonzero(images.ids == image_id)[0])
        assert np.array_equal(data.pixels[place].permute(1, 2, 0).numpy(), Image.open(io.BytesIO(images.bytes(row))))
