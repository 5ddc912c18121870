"""Every set that people bring, through `semmae use` and `prepare_data`: what is expected beside what comes out."""

import shutil
import subprocess
from collections import Counter

import pyarrow.parquet as pq
import pytest

from config.params import load_params
from config.presets import read_document, write_params
from shards.files import read_json
from shards.image_shards import ImageShards
from shards.row_index import SPLITS
from tests.conftest import ROOT, call, run_stage
from tests.images.sources.cases import CASES


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty folder `mine` in a repository with parameters."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    shutil.copytree(ROOT / "presets", "presets")
    shutil.copyfile("presets/quickstart.yaml", "params.yaml")
    shutil.copyfile(ROOT / "runtime.yaml", "runtime.yaml")
    (tmp_path / "mine").mkdir()
    return tmp_path


def change(**values):
    document = read_document()
    document["data"].update(values)
    write_params(document)


def shards(folder):
    """Classes, and number of images by split and class name, as they lie in the shards."""
    counts = Counter()
    for split in SPLITS:
        images = ImageShards(folder / "data/shards", split)
        names = {-1: "", **dict(enumerate(images.classes))}
        counts.update((split, names[label]) for label in images.labels.tolist())
    return tuple(images.classes), counts


@pytest.mark.parametrize("name", CASES)
def test_case__comes_out_as_its_owner_expects(project, monkeypatch, capsys, name):
    case = CASES[name]
    case.draw(project / "mine")
    change(**case.data)
    before = (project / "params.yaml").read_bytes()
    code = call(monkeypatch, "use", "mine")
    told = capsys.readouterr()
    if case.error:
        assert (code, told.out) == (1, "") and (project / "params.yaml").read_bytes() == before
        (line,) = told.err.splitlines()
        assert line.startswith("error: ") and [words for words in case.error if words not in line] == [], line
        return
    assert (code, told.err) == (0, "")
    assert [words for words in case.says if words not in told.out] == [], told.out
    assert call(monkeypatch, "check") == 0
    # What `check` says of the images, `use` has said.
    assert set(capsys.readouterr().out.splitlines()[1:]) - set(told.out.splitlines()) <= {
        "  its labels are not used: data.labels is []; `semmae use mine` uses them"
    }
    if case.stops:
        with pytest.raises(ValueError) as stopped:
            run_stage(project, "stages.prepare_data")
        assert [words for words in case.stops if words not in str(stopped.value)] == [], stopped.value
        return
    run_stage(project, "stages.prepare_data")
    found, counts = shards(project)
    data, metrics = load_params().data, read_json(project / "metrics/prepare_data.json")
    assert (found, data.labels, data.part_truth) == (
        case.classes, ["class"] * bool(case.classes), ["masks"] * bool(case.masks)
    )  # fmt: skip
    by_split = Counter()
    for (split, _), count in counts.items():
        by_split[split] += count
    if isinstance(case.images, int):
        assert by_split.total() == case.images and set(by_split) == set(SPLITS)
        assert all(counts[split, one] for split in ("train", "test") for one in case.classes)
    else:
        assert {splits: sum(by_split[one] for one in splits.split("+")) for splits in case.images} == case.images
    unlabelled = case.unlabelled if case.classes else by_split.total()
    assert (metrics["unlabelled_images"], metrics["masks"]) == (unlabelled, case.masks)
    reasons = Counter(row["reason"] for row in pq.read_table(project / "data/rejected.parquet").to_pylist())
    assert reasons == case.rejected


def test_check__labels_that_are_missing_or_judge_nothing_are_one_line(project, monkeypatch, capsys):
    for name, line in (
        (
            "flat",
            "error: mine: no image has a class label; add images with labels, or go without accuracy: data.labels: []",
        ),
        (
            "one_image_a_class",
            "error: mine: none of 40 classes has both training and test images; add images with labels, or",
        ),
    ):
        shutil.rmtree(project / "mine")
        (project / "mine").mkdir()
        CASES[name].draw(project / "mine")
        change(path="mine", watch="mine", generate=[], labels=["class"], part_truth=[])
        assert call(monkeypatch, "check") == 1
        told = capsys.readouterr()
        assert told.out == "" and told.err.startswith(line), told
        with pytest.raises(ValueError, match=line.removeprefix("error: ").partition(";")[0]):
            run_stage(project, "stages.prepare_data")


def test_check__labels_that_are_not_used_are_a_line(project, monkeypatch, capsys):
    CASES["plain"].draw(project / "mine")
    change(path="mine", watch="mine", generate=[], labels=[], part_truth=[])
    assert call(monkeypatch, "check") == 0
    assert "its labels are not used: data.labels is []; `semmae use mine` uses them" in capsys.readouterr().out


def test_prepare_data__names_the_classes_without_training_images(project, capsys):
    CASES["class_without_training_images"].draw(project / "mine")
    change(path="mine", watch="mine", generate=[], labels=["class"], part_truth=[])
    run_stage(project, "stages.prepare_data")
    assert "prepare_data: 1 of 4 classes have no training images: dog" in capsys.readouterr().out


def test_check__a_set_for_transfer_has_labels(project, monkeypatch, capsys):
    CASES["plain"].draw(project / "data/transfer/pets")
    document = read_document()
    document["transfer"]["sets"] = ["pets"]
    write_params(document)
    assert call(monkeypatch, "check") == 0
    assert "data/transfer/pets: 24 images, 3 classes" in capsys.readouterr().out.splitlines()
    CASES["flat"].draw(project / "data/transfer/loose")
    document["transfer"]["sets"] = ["pets", "loose"]
    write_params(document)
    assert call(monkeypatch, "check") == 1
    assert capsys.readouterr().err.startswith("error: data/transfer/loose: no image has a class label")
