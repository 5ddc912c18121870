"""Images without labels, all or some: what runs, and that an image without a label takes no part in any judgement."""

import hashlib
import shutil

import numpy as np
import pytest

from config.params import load_params
from config.presets import read_document, write_params
from evaluation.predictions import read_predictions
from shards.files import read_json
from shards.image_shard_writer import ImageShardWriter
from shards.image_shards import ImageShards
from shards.row_index import SPLITS
from tests.conftest import expand, run_stage

JUDGES = ("probe", "finetune", "linear_mae/lars")


@pytest.fixture
def unlabelled(copied_world):
    """A copy of the world whose parameters ask for no labels."""
    document = read_document(copied_world / "params.yaml")
    document["data"]["labels"] = []
    write_params(document, copied_world / "params.yaml")
    return copied_world


def test_graph__without_labels_nothing_judges_by_labels(unlabelled):
    stages = {label.partition("@")[0] for label, _, _ in expand(params=load_params(unlabelled / "params.yaml"))}
    assert {"pretrain", "evaluate_parts", "compare"} <= stages
    assert "probe" in stages and not stages & {"finetune", "linear_mae"}


def test_prepare_data__forgets_labels_that_are_not_wanted_and_keeps_images_and_splits(world, unlabelled):
    run_stage(unlabelled, "stages.prepare_data")
    for split in SPLITS:
        before, after = (ImageShards(folder / "data/shards", split) for folder in (world, unlabelled))
        assert before.ids.tolist() == after.ids.tolist()
        assert (after.classes, set(after.labels)) == ([], {-1})
        assert len(ImageShards(unlabelled / "data/shards", split, labelled=True)) == 0
    metrics = read_json(unlabelled / "metrics/prepare_data.json")
    assert (metrics["classes"], metrics["unlabelled_images"]) == (0, metrics["images"])


def test_train_teacher__without_labels_measures_no_accuracy_and_trains_to_the_same_bits(world, unlabelled):
    run_stage(unlabelled, "stages.prepare_data")
    run_stage(unlabelled, "stages.train_teacher")
    assert read_json(unlabelled / "metrics/train_teacher.json") == {}
    weights = [(folder / "teacher/model.safetensors").read_bytes() for folder in (world, unlabelled)]
    assert weights[0] == weights[1]


def test_probe__without_labels_measures_what_the_data_allow(unlabelled):
    document = read_document(unlabelled / "params.yaml")
    for attributes, truth, expected in (
        ([], [], {"test_images", "rankme"}),
        ([], ["masks"], {"test_images", "rankme", "dense_miou", "dense_floor"}),
        (["mark", "ears"], [], {"test_images", "rankme", "attributes_accuracy", "attribute_ears_floor"}),
    ):
        document["data"]["attributes"], document["data"]["part_truth"] = attributes, truth
        write_params(document, unlabelled / "params.yaml")
        run_stage(unlabelled, "stages.prepare_data")
        run_stage(unlabelled, "stages.probe", ["mae", "0"])
        metrics = read_json(unlabelled / "metrics/probe/mae-0.json")
        assert expected <= set(metrics)
        assert any(name.startswith("attribute") for name in metrics) == bool(attributes)
        assert any(name.startswith("dense") for name in metrics) == bool(truth)
        assert read_predictions(unlabelled / "metrics/predictions/probe/mae-0.parquet").classes == {}


def test_prepare_data__labels_that_are_wanted_and_missing_are_an_error(copied_world, tmp_path):
    document = read_document(copied_world / "params.yaml")
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((copied_world / "data/creatures").rglob("images/**/*.png"))[:20]):
        (flat / f"{number}.png").write_bytes(path.read_bytes())
    document["data"].update(path=str(flat), watch=str(flat), generate=[])
    write_params(document, copied_world / "params.yaml")
    with pytest.raises(ValueError, match=r"no image has a class label; .*data\.labels: \[\]"):
        run_stage(copied_world, "stages.prepare_data")


def relabel(folder, source, label_of):
    """Image shards like those at `source`, with the label that `label_of(id, label)` gives, and without images of None."""
    classes = ImageShards(source, "train").classes
    with ImageShardWriter(folder, classes=classes, shard_bytes=2**24) as writer:
        for split in SPLITS:
            shards = ImageShards(source, split)
            for row, (image_id, label) in enumerate(zip(shards.ids.tolist(), shards.labels.tolist(), strict=True)):
                label, image = label_of(image_id, label), shards.bytes(row)
                if label is not None:
                    digest = hashlib.sha256(image).digest()
                    writer.add(split, image_id=image_id, label=label, sha256=digest, image=image, path="p")


@pytest.mark.slow
def test_evaluation__images_without_a_label_change_nothing(world, tmp_path, copied_world):
    """The same predictions as if those images were not there."""
    judged = []
    for name, otherwise in (("without", None), ("unlabelled", -1)):
        target = tmp_path / name
        relabel(target, world / "data/shards", lambda image_id, label, no=otherwise: label if image_id % 3 else no)
        assert (ImageShards(target, "test").labels == -1).any() == (name == "unlabelled")
        shutil.rmtree(copied_world / "data/shards")
        target.rename(copied_world / "data/shards")
        for stage in ("probe", "finetune"):
            run_stage(copied_world, f"stages.{stage}", ["semmae", "0"])
        run_stage(copied_world, "stages.linear_mae", ["lars", "semmae", "0"])
        folder = copied_world / "metrics/predictions"
        judged.append([read_predictions(folder / name / "semmae-0.parquet") for name in JUDGES])
    for alone, among in zip(*judged, strict=True):
        np.testing.assert_array_equal(alone.ids, among.ids)
        np.testing.assert_array_equal(alone.labels, among.labels)
        for protocol, classes in alone.classes.items():
            np.testing.assert_array_equal(classes, among.classes[protocol], err_msg=protocol)
