"""Rows, classes and splits of files of many images, by Parquet files, whose writer is not ours."""

from decimal import Decimal

import pyarrow as pa
import pytest

from images.sources.columns import LABELS
from images.sources.container_source import class_name
from images.sources.items import NO_LABEL, id_of
from tests.images.sources.test_parquet import open_, rows, write


def labels_of(source):
    return [source.classes[item.label] if item.label != NO_LABEL else None for item in source.items]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (3, "3"), (10.0, "10"), (0.5, "0.5"), (True, "True"), ("cat", "cat"), (b"cat", "cat"), (b"caf\xe9", "caf%E9"),
        (Decimal("2.50"), "2.50"), (None, ""), (float("nan"), ""), ("", ""), (" \t", ""), (-1, ""), (-1.0, ""), (-0.0, "0"),
    ],
)  # fmt: skip
def test_class_name__of_a_stored_label(value, name):
    assert class_name(value, None) == name


def test_class_name__numbers_of_a_class_label_are_its_names():
    names = ("cat", "dog")
    assert [class_name(value, names) for value in (0, 1, 1.0, 2, -1, None, "cow")] == [
        "cat",
        "dog",
        "dog",
        "",
        "",
        "",
        "cow",
    ]


@pytest.mark.parametrize(
    ("labels", "kind", "classes", "expected"),
    [
        ([10.0, 2.0, float("nan"), 9.0], pa.float64(), ["2", "9", "10"], ["10", "2", None, "9"]),
        ([1, None, 0, -1], pa.int64(), ["0", "1"], ["1", None, "0", None]),
        (["b", "", " ", "a"], pa.string(), ["a", "b"], ["b", None, None, "a"]),
        (["10", "x", "9", "nan"], pa.string(), ["9", "10", "x"], ["10", "x", "9", None]),
    ],
)
def test_source__rows_without_a_label_are_kept_and_counted(tmp_path, labels, kind, classes, expected):
    write(tmp_path / "0.parquet", rows(4), labels, label_type=kind)
    source = open_(tmp_path)
    assert (source.classes, labels_of(source), source.rejected) == (classes, expected, [])
    assert f"{expected.count(None)} of 4 images have no label" in source.notes


@pytest.mark.parametrize("labels", [None, [None] * 3, [-1] * 3, [7] * 3])
def test_source__without_two_classes_has_none(tmp_path, labels):
    write(tmp_path / "0.parquet", rows(3), labels)
    source = open_(tmp_path)
    assert (source.classes, {item.label for item in source.items}) == ([], {NO_LABEL})
    assert "no classes: no two labels differ" in source.notes


def test_source__an_empty_label_column_means_no_classes(tmp_path):
    write(tmp_path / "0.parquet", rows(3), [0, 1, 2], names=["a", "b", "c"])
    source = open_(tmp_path, label_column="")
    assert (source.classes, labels_of(source)) == ([], [None] * 3)


def test_source__files_that_number_the_same_classes_differently_are_read_by_name(tmp_path):
    write(tmp_path / "train.parquet", rows(2, "a"), [0, 1], names=["cat", "dog"])
    write(tmp_path / "test.parquet", rows(2, "b"), [0, 1], names=["dog", "cat"])
    source = open_(tmp_path)
    assert {item.path: label for item, label in zip(source.items, labels_of(source), strict=True)} == {
        b"a0.png": "cat", b"a1.png": "dog", b"b0.png": "dog", b"b1.png": "cat"
    }  # fmt: skip


def test_source__files_of_one_source_may_call_their_columns_differently(tmp_path):
    write(tmp_path / "train.parquet", rows(2, "a"), [0, 1], image="img", label="fine_label")
    write(tmp_path / "val.parquet", rows(2, "b"), [0, 1])
    write(tmp_path / "test.parquet", rows(2, "c"))
    assert sorted(zip([i.path for i in open_(tmp_path).items], labels_of(open_(tmp_path)), strict=True)) == [
        (b"a0.png", "0"), (b"a1.png", "1"), (b"b0.png", "0"), (b"b1.png", "1"), (b"c0.png", None), (b"c1.png", None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00002.parquet", "train"), ("data/validation-0.parquet", "val"), ("TEST/0000.parquet", "test"),
        ("plain_text/dev/0.parquet", "val"), ("part-0.parquet", ""), ("trainer-0.parquet", ""),
        ("split=train/part-0.parquet", "train"), ("label=test/part-0.parquet", ""),
        ("split=test/label=train/part-0.parquet", "test"), ("label=x/train=0.parquet", "train"),
    ],
)  # fmt: skip
def test_source__splits_are_read_from_the_names(tmp_path, path, split):
    write(tmp_path / path, rows(2), [0, 1])
    source = open_(tmp_path)
    assert {item.split for item in source.items} == {split}
    assert source.notes[0] == f"Parquet files: 1; splits in their names: {split or 'none'}"


def test_source__hive_folders_are_classes(tmp_path):
    for key in LABELS[:3]:
        for name in ("cat", "test"):
            write(tmp_path / f"{key}/{key}={name}/part-0.parquet", rows(2, name))
        source = open_(tmp_path / key)
        assert source.classes == ["cat", "test"]
        assert [item.split for item in source.items] == [""] * 4


def test_source__paths_decide_ids_as_ever(tmp_path):
    """Written down, because added images must not move those of a set that is in use."""
    write(tmp_path / "a/train-0.parquet", rows(2, "x"), [0, 1])
    write(tmp_path / "a/test-0.parquet", rows(1, "y"), [0])
    assert [item.path for item in open_(tmp_path / "a").items] == [b"y0.png", b"x0.png", b"x1.png"]
    write(tmp_path / "b/train-0.parquet", rows(2), [0, 1])
    write(tmp_path / "b/test-0.parquet", rows(1), [0])
    items = open_(tmp_path / "b").items
    assert [item.path for item in items] == [
        b"test-0.parquet/00000000",
        b"train-0.parquet/00000000",
        b"train-0.parquet/00000001",
    ]
    assert [item.id for item in items] == [id_of(item.path) for item in items]


def test_source__litter_is_listed_and_never_opened(tmp_path):
    write(tmp_path / "train-0.parquet", rows(2), [0, 1])
    for path in ("._train-0.parquet", ".cache/x.parquet", "__MACOSX/train-0.parquet", ".DS_Store"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"\0\5\26\7")
    (tmp_path / "notes.txt").write_text("about")
    (tmp_path / "state.json").write_text("{}")
    source = open_(tmp_path)
    assert len(source.items) == 2
    assert {row.path: row.reason for row in source.rejected} == {
        "._train-0.parquet": "litter", ".cache/x.parquet": "litter", "__MACOSX/train-0.parquet": "litter",
        ".DS_Store": "litter", "notes.txt": "not an image",
    }  # fmt: skip
