import contextlib

import pytest

from config.presets import compose, validated
from images.sources.items import assign_splits
from images.sources.preparation import open_source
from images.sources.understanding import WITHOUT_LABELS, understand
from tests.conftest import ROOT
from tests.images.sources.cases import classes, system_files, write


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The parameters of an empty folder `mine`."""
    with contextlib.chdir(ROOT):
        document = compose("quickstart")
    document["data"].update(path="mine", watch="mine", generate=[], part_truth=[])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    return validated(document, "params.yaml").data


def rows(lines):
    """Split -> (images, given or drawn) of the table."""
    words = [line.split() for line in lines]
    return {one[0]: (int(one[1]), one[3]) for one in words if one[0] in ("train", "val", "test")}


def test_understand__the_splits_are_those_that_prepare_data_draws(data, tmp_path):
    classes(tmp_path / "mine", count=30)
    understood = understand(data, labels=None)
    source = open_source("mine", image_column="image", label_column="label")
    assign_splits(source.items, seed=data.split_seed, val_share=data.val_share, test_share=data.test_share)
    drawn = [item.split for item in source.items]
    assert rows(understood.lines) == {split: (drawn.count(split), "drawn") for split in ("train", "val", "test")}
    assert understood.lines[0] == "mine: 90 images, 3 classes"
    assert "  classes: ant, bee, cat; 30 images each" in understood.lines
    assert (understood.has_labels, understood.has_masks) == (True, False)


def test_understand__labels_that_judge_nothing_leave_the_splits_to_the_hash(data, tmp_path):
    classes(tmp_path / "mine", tuple(f"c{number:03}" for number in range(200)), 1)
    with pytest.raises(ValueError, match="none of 200 classes has both training and test images"):
        understand(data, labels=True)
    without, undecided = understand(data, labels=False), understand(data, labels=None)
    assert not undecided.has_labels and rows(undecided.lines) == rows(without.lines)
    # Were the labels used, all but two images would train.
    assert rows(without.lines)["test"][0] > 20
    assert f"  {WITHOUT_LABELS}" in undecided.lines and f"  {WITHOUT_LABELS}" in without.lines


def test_understand__what_is_refused_is_counted_by_reason_and_litter_apart(data, tmp_path):
    system_files(tmp_path / "mine")
    for name in ("notes.txt", "more.txt"):
        write(tmp_path / "mine/ant" / name, b"hello")
    (tmp_path / "mine/bee/broken.png").symlink_to("nowhere")
    lines = understand(data, labels=True).lines
    assert lines[-1] == "  litter, never counted: 6 (ant/.DS_Store, ant/Thumbs.db, bee/.DS_Store and 3 more)"
    assert lines[-2].startswith("  refused: ") and "broken link" in lines[-2]


def test_understand__decodes_no_image(data, tmp_path, monkeypatch):
    classes(tmp_path / "mine")
    monkeypatch.setattr("PIL.Image.open", None)
    assert understand(data, labels=True).lines[0] == "mine: 24 images, 3 classes"
