import io
import re
import shutil

import pytest
import torch
from rich.console import Console

from config.presets import compose, write_params
from reports import figures
from reports.page import render
from reports.part_summary import part_measures, part_usage
from reports.table import print_summary
from shards.files import read_json
from tests.conftest import run_stage
from tests.reports.conftest import (
    ARMS,
    MODEL,
    OPTIONS,
    material_of,
    write_json,
    write_labels,
    write_metrics_of,
    write_models,
    write_no_masks,
    write_part_model,
    write_shards,
)
from tests.reports.document import parse


@pytest.fixture
def no_charts(monkeypatch):
    """Charts that cost nothing, for tests of what else a report shows."""
    monkeypatch.setattr(figures, "chart", lambda draw, **_: figures.Chart(b"", b""))


def test_render__is_whole_and_loads_nothing(html):
    document = parse(html)
    assert document.tags[0][0] == "html"
    for tag, found in document.tags:
        for name in ("src", "srcset"):
            assert found.get(name, "data:").startswith("data:"), (tag, found)
        if "href" in found:
            assert re.match(r"#\w+$|data:|[\w/.]+$", found["href"]), found
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
        "kNN accuracy is 52.0 %", "parts from", "intra_to_inter", "Whole parts hidden", "background:",
        "From attention heads to parts", "head 2", "Rebuilt from parts", "Part learning: every loss",
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
    document = compose("quickstart")
    document["compare"].update({**{name: OPTIONS[name] for name in ("pictures", "mask_images")}, "resamples": 50})
    document["compute"].update({"threads": torch.get_num_threads(), "device": "cpu"})
    document["seeds"] = [0, 1]
    write_params(document, root / "params.yaml")
    run_stage(root, "stages.compare")
    assert (root / "report/report.html").read_text() == html
    assert {path.stem: path.read_bytes() for path in (root / "report/figures").iterdir()} == files
    metrics = read_json(root / "report/metrics.json")
    assert metrics["semmae/hidden_ratio_std/1"] > metrics["semmae/hidden_ratio_std/0"]
    assert metrics["parts/learned/nmi_foreground"] == 0.3
    assert metrics["teacher/knn_accuracy"] == 0.52
    print_summary(root, "sqlite:///tracking/mlflow.db", Console(file=io.StringIO()))
    assert (root / "report/curves.csv").read_text().startswith("arm,seed,step")
