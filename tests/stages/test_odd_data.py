"""Data that a protocol could stumble over: no classes, a class that is missing from test, odd masks, an ignore label."""

import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from config.presets import read_document, write_params
from jobs.fingerprint import digest_of
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


def test_no_classes__refused_where_labels_are_wanted_and_else_measured_without_an_accuracy(world, tmp_path):
    folder = world_of(world, tmp_path / "world", lambda photos: write_images(photos, 80))
    with pytest.raises(ValueError, match="photos: no image has a class label; .* data.labels: \\[\\]"):
        run_stage(folder, "stages.prepare_data")
    document = read_document(folder / "params.yaml")
    document["data"]["labels"] = []
    write_params(document, folder / "params.yaml")
    for name in ("metrics", "report"):
        shutil.rmtree(folder / name)
    text = run_all(folder)
    assert not {path.name for path in (folder / "metrics").iterdir()} & {"finetune", "linear_mae"}
    assert "No labels, no accuracy" in text


def test_class_missing_from_test__is_trained_on_and_told(world, tmp_path):
    def write(photos):
        for split, count in (("train", 24), ("val", 8), ("test", 8)):
            for name in ("ant", "bee") + ("cat",) * (split != "test"):
                write_images(photos / split / name, count, seed=len(split))

    text = run_all(world_of(world, tmp_path / "world", write))
    assert "No test image is of class cat" in text


def test_fewer_images_than_a_batch__no_step_takes_one_twice(world, tmp_path, capsys):
    def write(photos):
        for split, count in (("train", 3), ("val", 2), ("test", 3)):
            for name in ("ant", "bee"):
                write_images(photos / split / name, count, seed=len(split))

    folder = world_of(world, tmp_path / "world", write)
    document = read_document(folder / "params.yaml")
    document["linear_mae"]["optimizers"] = ["lars"]
    write_params(document, folder / "params.yaml")
    capsys.readouterr()
    run_all(folder)
    lines = re.findall(
        r"(.+): batch_size 8 is more than the 6 training images: a step takes 6\n", capsys.readouterr().out
    )
    jobs = [f"{stage} {arm}-0" for stage in ("pretrain", "finetune", "linear_mae") for arm in ("semmae", "mae")]
    assert sorted(lines) == sorted(["train_teacher", "refine_parts", *jobs])
    for path, epochs in (("train_teacher", 4), ("pretrain/mae-0", 5), ("linear_mae/lars/mae-0", 2)):
        assert read_json(folder / f"history/{path}.json")[-1]["step"] == epochs
    assert read_json(folder / "metrics/pretrain/mae-0.json")["images"] == 5 * 6


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
    assert [(row["path"], row["reason"]) for row in refused] == [("masks/train/all/3.png", "mask size")]
    assert "20 x 20" in refused[0]["detail"] and "32 x 32" in refused[0]["detail"]
    run_stage(folder, "stages.segment", ["tiny", "mae", "0"])
    metrics = read_json(folder / "metrics/segment/tiny/mae-0.json")
    assert {name for name in metrics if "upernet_iou/" in name} == {"upernet_iou/0", "upernet_iou/1"}
    # One of each split has no pixel with a class.
    assert (metrics["test_images"], metrics["left_out_images"]) == (5, 2)


def test_trimaps__are_measured_as_the_same_objects_drawn_directly(world, tmp_path):
    found = []
    for name, (object_, ground, border), mapping in (
        ("trimap", (1, 2, 3), {2: "background", 3: "ignored"}),
        ("object", (1, 0, 255), {}),
    ):
        folder = shutil.copytree(world, tmp_path / name, symlinks=True)
        for path in (folder / "data/creatures/masks").rglob("*.png"):
            parts = np.asarray(Image.open(path))
            inside = np.where(parts == 1, border, np.where(parts > 0, object_, ground))
            Image.fromarray(inside.astype(np.uint8)).save(path)
        document = read_document(folder / "params.yaml")
        document["data"]["mask_values"] = mapping
        write_params(document, folder / "params.yaml")
        run_stage(folder, "stages.prepare_data")
        run_stage(folder, "stages.evaluate_parts")
        found.append(read_json(folder / "metrics/evaluate_parts.json"))
        assert digest_of(folder / "data/shards") == digest_of(world / "data/shards")
    assert found[0] == found[1]
    measures = {name.rpartition("/")[2] for name in found[0]}
    assert {"foreground_iou", "nmi", "ari"} <= measures and not measures & {"nmi_foreground", "ari_foreground", "miou"}
    assert all(0 < found[0][f"{method}/foreground_iou"] < 1 for method in ("learned", "raw", "xy", "kmeans"))
