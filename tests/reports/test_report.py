import base64
import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from config.presets import compose, write_params
from reports import figures
from reports.comparison import NO_ACCURACY, WHERE_TO_JUDGE, to_csv
from reports.material import read_changes
from reports.page import render
from reports.part_summary import part_measures, part_usage
from reports.table import print_summary
from shards.files import read_json
from tests.conftest import ROOT, run_stage
from tests.reports.conftest import (
    ARMS,
    BIRDS,
    MEASURED,
    MODEL,
    PROBE,
    STREETS,
    WITHOUT_CLASSES,
    material_of,
    write_json,
    write_labels,
    write_metrics_of,
    write_models,
    write_no_masks,
    write_outs,
    write_parameters,
    write_part_model,
    write_shards,
)
from tests.reports.document import parse


@pytest.fixture
def no_charts(monkeypatch):
    """Charts that cost nothing, for tests of what else a report shows."""
    monkeypatch.setattr(figures, "chart", lambda draw, **_: figures.Chart(*np.zeros((2, 1, 1, 3), np.uint8)))


def test_render__is_whole_alone_and_loads_nothing(html):
    document = parse(html)
    assert document.tags[0][0] == "html"
    ids = {found["id"] for _, found in document.tags if "id" in found}
    for tag, found in document.tags:
        assert all(found.get(name, "data:").startswith("data:") for name in ("src", "srcset")), (tag, found)
        target = found.get("href", "data:")
        assert target.startswith("data:") or target.removeprefix("#") in ids, found
    assert "url(" not in html.split("</style>")[0]
    assert "default-src 'none'" in html


def test_render__every_picture_says_what_it_shows(html):
    alts = [found.get("alt") for tag, found in parse(html).tags if tag == "img"]
    assert len(alts) > 20
    assert all(alts[:-1]) and alts[-1] == ""  # the last is the empty frame of the dialog


def test_render__anchors_of_the_menu_exist_once(html):
    tags = parse(html).tags
    ids = [found["id"] for _, found in tags if "id" in found]
    assert len(ids) == len(set(ids))
    assert {found["href"][1:] for tag, found in tags if tag == "a" and found["href"].startswith("#")} <= set(ids)


def test_render__tells_all_arms_protocols_and_the_verdict(html):
    text = " ".join(parse(html).text.split())
    for words in (
        "semmae", "mae", "raw attention", "fine-tuning", "linear probe", "kNN, k = 5", "a direction at most",
        "kNN accuracy is 52.0 %", "Over 52 training and test images", "+30.0 ± 5.0 points above pixels", "largest class33.3",
        "parts from", "intra_to_inter", "Whole parts hidden", "background:", "From attention heads to parts", "head 2",
        "Rebuilt from parts", "Part learning: every loss",
    ):  # fmt: skip
        assert words in text, words


def test_render__names_of_classes_are_text(material, html):
    assert "<cat" not in html
    assert any("<cat & co>" in row.alt for row in material.pictures["parts"])


def test_gather__a_baseline_alone_with_one_seed_and_no_part_truth_makes_a_report(outs, no_charts):
    found = material_of(outs, arms={"mae": ARMS["mae"]}, seeds=(0,), part_truth=False)
    assert not {"part_quality", "differences"} & set(found.charts)
    html = render(found)
    assert "Only mae ran." in html
    assert "Part quality" not in html
    parse(html)


def test_gather__images_without_masks_and_a_model_on_another_grid(tmp_path, no_charts):
    write_parameters(tmp_path)
    ids = write_shards(tmp_path / "data/shards", has_masks=False)
    for name in ("masks/learned", "arms/semmae"):
        write_labels(tmp_path / name, ids, seed=1)
    write_no_masks(tmp_path / "arms/mae")
    arms = {name: ARMS[name] for name in ("semmae", "mae")}
    write_metrics_of(tmp_path, arms, (4,))
    write_json(tmp_path / "history/train_teacher.json", [])
    write_part_model(tmp_path, background="attention_mass", decodes=False)
    write_models(tmp_path, arms, (4,), {**MODEL, "patch_size": 8, "image_size": [48, 32]})
    found = material_of(tmp_path, arms=arms, seeds=(4,), part_truth=False)
    assert [row.label for row in found.pictures["parts"]] == ["image", "learned parts"]
    assert [row.label for row in found.pictures["part_maps"]] == ["image", *(f"part {part}" for part in range(4))]
    assert "rebuilt" not in found.pictures and "teacher_losses" not in found.charts
    parse(render(found))


OBJECTS = {"learned/foreground_iou": 0.6, "xy/foreground_iou": 0.4, "learned/dead_parts": 1, "xy/dead_parts": 0}


@pytest.mark.parametrize("sources", [(), (BIRDS, STREETS), (STREETS,)], ids=["alone", "transfer", "segment"])
def test_render__images_without_labels_have_no_accuracy(tmp_path, no_charts, sources):
    write_outs(tmp_path, classes=[], sources=sources)
    write_json(tmp_path / "metrics/evaluate_parts.json", OBJECTS)
    found = material_of(tmp_path, sources=sources)
    html = render(found)
    text = " ".join(parse(html).text.split())
    for words in (
        "none no labels",
        "Validation loss",
        "Masks over training",
        "Reconstructions",
        "masks of whole objects",
    ):
        assert words in text, words
    assert "nan" not in text.lower().split() and "100.0" not in text
    assert all("<td" in table for table in html.split("<tbody>")[1:]), "no table is empty"
    assert (NO_ACCURACY in text, WHERE_TO_JUDGE in text) == (not sources,) * 2
    assert ("accuracies" in found.charts) == bool(sources) and "finetuning_loss" not in found.charts
    assert ("birds: linear probe" in text) == (BIRDS in sources) and ("streets: linear head mIoU" in text) == bool(
        sources
    )
    assert "Part quality" in text and found.parts.lead == "foreground_iou"


@pytest.mark.parametrize("measured", WITHOUT_CLASSES, ids=["nothing", "masks", "attributes"])
def test_render__images_without_labels_are_judged_by_what_else_is_known_of_them(
    tmp_path, no_charts, monkeypatch, measured
):
    monkeypatch.setitem(MEASURED, "probe", measured)
    write_outs(tmp_path, classes=[], sources=[PROBE])
    text = " ".join(parse(render(material_of(tmp_path, sources=[PROBE]))).text.split())
    assert (NO_ACCURACY in text) == (not measured)
    assert ("true parts, mIoU" in text, "attribute mark" in text) == (
        "dense_miou" in measured,
        "attributes_floor" in measured,
    )
    assert "RankMe of the frozen features" in text and "other data sets judge" not in text


def test_render__a_name_that_pictures_cannot_draw_has_a_number_there(tmp_path, no_charts):
    write_outs(tmp_path, classes=["日本", "ant", "cafe\u0301"])
    found = material_of(tmp_path)
    assert "class #0 is 日本" in render(found) and "class #1" not in render(found)
    assert {row.label for row in found.masks.strips["mae"]} == {"class #0", "ant", "café"}
    assert any("日本" in row.alt for row in found.masks.strips["mae"])


def test_render__what_is_not_judged_is_said(tmp_path, no_charts):
    write_outs(tmp_path, classes=["ant", "bee", "cat", *(f"rare {number}" for number in range(20))])
    counts = read_json(tmp_path / "metrics/prepare_data.json")
    write_json(tmp_path / "metrics/prepare_data.json", {**counts, "unlabelled_images": 1234})
    text = " ".join(parse(render(material_of(tmp_path))).text.split())
    assert "No test image is of class rare 0, rare 1," in text and "rare 7 and 12 more: nothing" in text
    assert "1,234 images have no label" in text


def test_render__has_the_table_to_save(html, material):
    link = next(found for tag, found in parse(html).tags if "download" in found)
    assert base64.b64decode(link["href"].partition(",")[2]).decode() == to_csv(material.rows)


def test_render__lists_the_parameters_that_differ_from_the_preset(material):
    assert material.preset == "quickstart" and material.changes["compare.pictures"] == ("6", "3")
    html = render(replace(material, changes={"pretrain.epochs": ("4", "<7>")}))
    rows = parse(html.partition('id="parameters"')[2].partition("<tbody>")[2].partition("</tbody>")[0])
    assert "".join(rows.text.split()) == "pretrain.epochs4<7>" and "1 changed" in html
    assert "All parameters are those of preset quickstart." in render(replace(material, changes={}))


def test_read_changes__no_path_of_this_machine_is_told(tmp_path):
    document = compose("quickstart")
    document["data"]["path"], document["data"]["store"] = "/home/somebody/flowers", "s3://me:secret@bucket/shards"
    write_params(document, tmp_path / "params.yaml")
    preset, changes = read_changes(tmp_path / "params.yaml")
    assert preset == "quickstart" and changes["data.path"] == ("data/creatures", "…/flowers")
    assert changes.keys() == {"data.path", "data.store"} and "secret" not in str(changes)


def test_sheets__cover_charts_pictures_and_masks(files):
    names = set(files)
    assert {"accuracies", "differences", "hidden_ratio", "pretraining_loss", "parts", "single_parts"} <= names
    assert {
        "reconstructions",
        "reconstructions_parts",
        "masks_semmae",
        "masks_mae",
        "snapshots_mae",
        "part_quality",
    } <= names
    assert {"heads", "part_maps", "rebuilt", "teacher_losses", "part_losses", "image_0", "image_2"} <= names


def test_part_usage__shares_sum_to_one(material):
    usage = material.parts.usage
    assert sum(part.patches for part in usage) == pytest.approx(1)
    assert [part.name for part in usage] == [*(f"part {part}" for part in range(material.parts.count)), "background"]
    assert all(part.patches <= part.images for part in usage)


def test_part_usage__counts_dead_parts_as_nothing():
    labels = torch.tensor([[[0, 0], [0, 3]], [[0, 0], [0, 0]]]).numpy()
    shares = [(part.patches, part.images) for part in part_usage(labels, 3, has_background=True)]
    assert shares == [(0.875, 1.0), (0, 0), (0, 0), (0.125, 0.5)]


def test_part_measures__puts_the_best_first():
    found = part_measures({"xy/nmi_foreground": 0.2, "learned/nmi_foreground": 0.3, "images": 5})
    assert list(found.index) == ["learned", "xy"]
    assert part_measures({}).empty


def test_stage__writes_what_an_earlier_run_wrote(outs, files, html, tmp_path):
    root = shutil.copytree(outs, tmp_path / "world")
    (root / "presets").symlink_to(ROOT / "presets")
    run_stage(root, "stages.compare")
    assert (root / "report/report.html").read_text() == html
    assert {path.stem: path.read_bytes() for path in (root / "report/figures").iterdir()} == files
    metrics = read_json(root / "report/metrics.json")
    assert metrics["semmae/hidden_ratio_std/1"] > metrics["semmae/hidden_ratio_std/0"]
    assert metrics["parts/learned/nmi_foreground"] == 0.3
    assert metrics["teacher/knn_accuracy"] == 0.52
    print_summary(root, "sqlite:///tracking/mlflow.db", Console(file=io.StringIO()))
    assert (root / "report/curves.csv").read_text().startswith("arm,seed,step")
    assert metrics["test/classes"] == 3 and metrics["test/largest_class"] == metrics["test/chance"] == pytest.approx(
        1 / 3
    )
    assert metrics["semmae/val_loss/mean"] == pytest.approx(material_of(outs).results.val_losses.loc["semmae", "mean"])
