"""Data that a protocol could stumble over: one class, a class that is missing from test, odd masks, an ignore label."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from config.presets import read_document, write_params
from shards.files import read_json
from tests.conftest import expand, load_params, run_stage
from tests.reports.document import parse

pytestmark = pytest.mark.slow


def write_images(folder, count, *, seed=0, size=32, masks=None, values=(0, 1, 2)):
    """`count` pictures of coloured blocks; with `masks` also one PNG of class ids each, in blocks as well."""
    rng = np.random.default_rng([seed, *map(ord, folder.name)])
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)).resize(
            (size, size)
        ).save(folder / f"{number}.png")
        if masks is not None:
            masks.mkdir(parents=True, exist_ok=True)
            drawn = np.kron(rng.choice(values, (4, 4)), np.ones((8, 8))).astype(np.uint8)
            Image.fromarray(drawn).save(masks / f"{number}.png")


def world_of(world, folder, write):
    """A copy of the tiny world with two arms and a seed, whose images are what `write(folder of the data)` makes."""
    shutil.copytree(world, folder, symlinks=True)
    shutil.rmtree(folder / "data")
    document = read_document(folder / "params.yaml")
    document["arms"]["names"], document["seeds"] = ["semmae", "mae"], [0]
    document["data"].update(path="photos", watch="photos", generate=[], part_truth=[])
    write_params(document, folder / "params.yaml")
    write(folder / "photos")
    return folder


def run_all(folder):
    for _, module, arguments in expand(params=load_params(folder / "params.yaml")):
        if module != "pipeline.tracking":
            run_stage(folder, module, arguments)
    return parse((folder / "report/report.html").read_text()).text


def test_one_class__goes_through_and_the_report_says_that_it_tells_nothing(world, tmp_path):
    folder = world_of(world, tmp_path / "world", lambda photos: write_images(photos, 80))
    text = run_all(folder)
    assert read_json(folder / "metrics/finetune/mae-0.json")["finetune_accuracy"] == 1.0
    assert read_json(folder / "metrics/probe/mae-0.json")["linear_accuracy"] == 1.0
    assert "one class" in text


def test_class_missing_from_test__is_trained_on_and_told(world, tmp_path):
    def write(photos):
        for split, count in (("train", 24), ("val", 8), ("test", 8)):
            for name in ("ant", "bee") + ("cat",) * (split != "test"):
                write_images(photos / split / name, count, seed=len(split))

    text = run_all(world_of(world, tmp_path / "world", write))
    assert "No test image is of class cat" in text


def test_segmentation__a_mask_of_another_size_is_refused_by_name_and_the_ignore_label_counts_nowhere(world, tmp_path):
    def write(photos):
        for split, count in (("train", 24), ("val", 4), ("test", 6)):
            masks = photos / "masks" / split / "all"
            write_images(photos / "images" / split / "all", count, seed=len(split), masks=masks, values=(0, 1, 255))
        Image.fromarray(np.zeros((20, 20), np.uint8)).save(photos / "masks/train/all/3.png")
        Image.fromarray(np.full((32, 32), 255, np.uint8)).save(photos / "masks/test/all/0.png")

    folder = tmp_path / "world"
    shutil.copytree(world, folder, symlinks=True)
    write(folder / "data/segment/tiny")
    document = read_document(folder / "params.yaml")
    document["segment"]["sets"] = ["tiny"]
    write_params(document, folder / "params.yaml")
    run_stage(folder, "stages.prepare_data", ["segment", "tiny"])
    refused = pq.read_table(folder / "prepared/segment/tiny/rejected.parquet").to_pylist()
    assert [(row["path"], row["reason"]) for row in refused] == [("images/train/all/3.png", "mask size")]
    assert "20 x 20" in refused[0]["detail"] and "32 x 32" in refused[0]["detail"]
    run_stage(folder, "stages.segment", ["tiny", "mae", "0"])
    metrics = read_json(folder / "metrics/segment/tiny/mae-0.json")
    assert {name for name in metrics if "upernet_iou/" in name} == {"upernet_iou/0", "upernet_iou/1"}
    assert metrics["test_images"] == 6
