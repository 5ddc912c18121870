"""Stages whose images or shards lie in a store make what they make of local ones."""

import os
import shutil
import subprocess
import sys

import pytest

from config.params import load_params
from config.presets import read_document, write_params
from images.sources.tree import root_of, write_listing
from jobs.fingerprint import digest_of
from shards.files import read_json
from shards.image_shards import ImageShards
from shards.row_index import SPLITS
from tests.conftest import ROOT, expand, run_stage


def change(folder, **values):
    document = read_document(folder / "params.yaml")
    document["data"].update(values)
    write_params(document, folder / "params.yaml")


@pytest.fixture
def prepared(world, tmp_path):
    """The tiny world's pictures and parameters, without any out."""
    (tmp_path / "data").mkdir()
    shutil.copytree(world / "data/creatures", tmp_path / "data/creatures")
    for name in ("params.yaml", "runtime.yaml"):
        shutil.copyfile(world / name, tmp_path / name)
    return tmp_path


def manifest_of(folder):
    return read_json(folder / "data/shards/manifest.json")


def test_prepare_data__shards_in_a_store_have_the_digest_of_local_ones(prepared, world, bucket):
    change(prepared, store=f"{bucket.url}/shards")
    run_stage(prepared, "stages.prepare_data")
    assert sorted(os.listdir(prepared / "data/shards")) == ["index.arrow", "manifest.json"]
    assert manifest_of(prepared)["data_digest"] == manifest_of(world)["data_digest"]
    for split in SPLITS:
        here, there = (ImageShards(folder / "data/shards", split) for folder in (world, prepared))
        assert [here.bytes(row) for row in range(len(here))] == [there.bytes(row) for row in range(len(there))]
    assert (prepared / "data/rejected.parquet").read_bytes() == (world / "data/rejected.parquet").read_bytes()


def test_prepare_data__pictures_in_a_store_have_the_digest_of_local_ones(prepared, world, bucket):
    bucket.put_folder(prepared / "data/creatures", "photos")
    change(prepared, path=f"{bucket.url}/photos", generate=[], watch="data/listing.txt")
    with pytest.raises(
        ValueError, match=r"data/listing\.txt: got no listing, expected the listing of .*run `semmae use"
    ):
        run_stage(prepared, "stages.prepare_data")
    write_listing(root_of(f"{bucket.url}/photos"), prepared / "data/listing.txt")
    run_stage(prepared, "stages.prepare_data")
    assert manifest_of(prepared) == manifest_of(world)


def test_prepare_data__a_store_that_does_not_answer_is_one_line_and_exit_1(prepared, bucket):
    change(prepared, store="s3://no-such-bucket/shards")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.prepare_data"]
    answer = subprocess.run(command, cwd=prepared, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: prepare_data: s3://no-such-bucket/shards/")
    assert not (prepared / "data/shards").exists()


@pytest.mark.slow
def test_pipeline__with_the_shards_in_a_store_every_stage_makes_what_it_makes_of_local_ones(world, tmp_path, bucket):
    """All that reads images is run again, beside copies of what does not."""
    folder = tmp_path / "world"
    shutil.copytree(world, folder, symlinks=True)
    change(folder, store=f"{bucket.url}/shards")
    skipped = {"generate_creatures", "track_runs"}
    for label, module, arguments in expand(params=load_params(folder / "params.yaml")):
        if label.split("@")[0] not in skipped:
            run_stage(folder, module, arguments)
    for path in ("data/shards", "attention/all"):
        assert not list((folder / path).glob("*.parquet"))
    here, there = (read_json(place / "attention/all/manifest.json")["shards"] for place in (world, folder))
    assert [shard["sha256"] for shard in here] == [shard["sha256"] for shard in there]
    for path in ("teacher", "attention/tokens", "masks/raw", "part_learner", "masks/learned", "metrics", "history", "arms",
                 "pretrained", "finetuned"):  # fmt: skip
        assert digest_of(folder / path) == digest_of(world / path), path
