"""The protocols that are matrices over lists, in the tiny world, with creatures as the other data set."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from config.params import load_params
from config.presets import read_document, write_params
from evaluation.predictions import read_predictions
from shards.files import read_json
from shards.image_shards import ImageShards
from tests.conftest import run_stage
from tests.reports.document import parse
from tests.stages.test_stages import outs_of


@pytest.fixture(scope="module")
def evaluated(world, tmp_path_factory):
    """A world of two arms and one seed in which every optional protocol has run."""
    folder = tmp_path_factory.mktemp("evaluated") / "world"
    shutil.copytree(world, folder, symlinks=True)
    for kind in ("transfer", "segment"):
        shutil.copytree(folder / "data/creatures", folder / f"data/{kind}/tiny")
    document = read_document(folder / "params.yaml")
    document["arms"]["names"], document["seeds"] = ["semmae", "mae"], [0]
    document["linear_mae"]["optimizers"] = ["lars"]
    document["transfer"]["sets"] = document["segment"]["sets"] = ["tiny"]
    write_params(document, folder / "params.yaml")
    for kind in ("transfer", "segment"):
        run_stage(folder, "stages.prepare_data", [kind, "tiny"])
    for arm in ("semmae", "mae"):
        run_stage(folder, "stages.linear_mae", ["lars", arm, "0"])
        for kind in ("transfer", "segment"):
            run_stage(folder, f"stages.{kind}", ["tiny", arm, "0"])
    run_stage(folder, "stages.compare")
    return folder


def test_outs__are_those_of_dvc_yaml(evaluated):
    params = load_params(evaluated / "params.yaml")
    for stage in ("linear_mae@class-lars", "transfer@tiny", "segment@tiny"):
        for arm in params.arms.names:
            for out in outs_of(f"{stage}-{arm}-0", params):
                assert (evaluated / out).is_file(), out
    for kind in ("transfer", "segment"):
        for out in outs_of(f"prepare_{kind}@tiny", params):
            assert (evaluated / out).exists(), out
    assert not list((evaluated / ".semmae/scratch").glob("*"))


def test_segment__reports_each_class_of_the_truth(evaluated):
    metrics = read_json(evaluated / "metrics/segment/tiny/mae-0.json")
    classes = {name for name in metrics if name.startswith("upernet_iou/")}
    assert "upernet_iou/0" in classes
    assert np.mean([metrics[name] for name in classes]) == pytest.approx(metrics["upernet_miou"])
    assert metrics["test_images"] == 30


def test_segment__a_run_that_ends_in_its_second_head_keeps_the_first(evaluated, tmp_path, capsys):
    world = shutil.copytree(evaluated, tmp_path / "world", symlinks=True)
    outs = [world / f"{folder}/segment/tiny/mae-0.json" for folder in ("metrics", "history")]
    unbroken = [out.read_bytes() for out in outs]
    for out in outs:
        out.unlink()
    scratch = world / ".semmae/scratch"
    scratch.mkdir(exist_ok=True)
    # A file in the place of its folder.
    (scratch / "segment-tiny-mae-0-upernet").touch()
    with pytest.raises(OSError, match="segment-tiny-mae-0-upernet"):
        run_stage(world, "stages.segment", ["tiny", "mae", "0"])
    (scratch / "segment-tiny-mae-0-upernet").unlink()
    capsys.readouterr()
    run_stage(world, "stages.segment", ["tiny", "mae", "0"])
    ((done, steps),) = re.findall(
        r"segment tiny mae-0 (?:linear|upernet): resumes at step (\d+) of (\d+)", capsys.readouterr().out
    )
    assert done == steps and [out.read_bytes() for out in outs] == unbroken
    assert not list(scratch.iterdir())


def test_transfer__is_judged_on_its_own_test_images(evaluated):
    metrics = read_json(evaluated / "metrics/transfer/tiny/mae-0.json")
    predictions = read_predictions(evaluated / "metrics/predictions/transfer/tiny/mae-0.parquet")
    assert np.array_equal(predictions.ids, ImageShards(evaluated / "prepared/transfer/tiny/shards", "test").ids)
    for name in ("knn_accuracy", "linear_accuracy", "finetune_accuracy"):
        assert predictions.correct(name).mean() == pytest.approx(metrics[name])


def test_compare__tells_every_protocol_of_every_data_set(evaluated):
    metrics = read_json(evaluated / "report/metrics.json")
    names = ("linear_lars_accuracy", "tiny/finetune_accuracy", "tiny/linear_accuracy", "tiny/upernet_miou")
    for name in names:
        assert f"semmae/{name}/difference" in metrics, name
    assert not any("_iou/" in name or "test_images" in name for name in metrics if name.startswith("semmae/"))
    text = parse((evaluated / "report/report.html").read_text()).text
    assert "tiny: UPerNet mIoU" in text
    assert "linear probe, MAE's recipe" in text


def test_segment__a_data_set_without_masks_is_one_line(evaluated, tmp_path):
    world = shutil.copytree(evaluated, tmp_path / "world", symlinks=True)
    shutil.rmtree(world / "data/segment/tiny/masks")
    with pytest.raises(
        ValueError, match="no mask of train has a class; put a PNG of label ids for each image into masks/"
    ):
        run_stage(world, "stages.prepare_data", ["segment", "tiny"])


def test_segment__the_floor_is_the_same_for_all_arms(evaluated):
    floors = []
    for arm in ("semmae", "mae"):
        metrics = read_json(evaluated / f"metrics/segment/tiny/{arm}-0.json")
        floors.append((metrics["floor_miou"], metrics["floor_pixel_accuracy"]))
        assert metrics["left_out_images"] == 0
    assert floors[0] == floors[1] and 0 < floors[0][0] < floors[0][1] < 1


def test_segment__what_void_pixels_are_called_changes_no_metric(evaluated, tmp_path):
    """Two worlds whose masks differ in pixels of the class that is ignored alone: void becomes another void value."""
    found = []
    for name, void in (("one", 250), ("other", 255)):
        world = shutil.copytree(evaluated, tmp_path / name, symlinks=True)
        for path in (world / "data/segment/tiny/masks").rglob("*.png"):
            values = np.asarray(Image.open(path))
            Image.fromarray(np.where(values == 1, void, values).astype(np.uint8)).save(path)
        document = read_document(world / "params.yaml")
        document["segment"]["mask_values"] = {"tiny": {250: "ignored"}}
        write_params(document, world / "params.yaml")
        run_stage(world, "stages.prepare_data", ["segment", "tiny"])
        run_stage(world, "stages.segment", ["tiny", "mae", "0"])
        found.append(read_json(world / "metrics/segment/tiny/mae-0.json"))
    assert found[0] == found[1]
    assert "linear_iou/1" not in found[0] and "linear_iou/2" in found[0]
