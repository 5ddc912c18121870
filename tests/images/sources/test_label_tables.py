import csv
import io

import pytest

from images.sources.label_tables import LABEL_COLUMNS, TableLabels
from images.sources.splits import split_of_table
from images.sources.tree import FolderRoot

PATHS = ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
PLAIN = [["filename", "label"], ["1.jpg", "ant"], ["2.jpg", "bee"], ["3.jpg", "ant"], ["4.jpg", "bee"]]


def written(rows, delimiter=","):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def read(tmp_path, paths=PATHS, splits=None, **tables):
    """What tables say; `name` is written to NAME.csv, rows or text."""
    labels = TableLabels(paths, splits or [""] * len(paths))
    for name, content in tables.items():
        data = content if isinstance(content, (str, bytes)) else written(content)
        (tmp_path / f"{name}.csv").write_bytes(data if isinstance(data, bytes) else data.encode())
        labels.read(FolderRoot(tmp_path), f"{name}.csv".encode(), split_of_table(name.encode()))
    return labels


@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_read__delimiter_and_byte_order_mark_do_not_matter(tmp_path, delimiter, start):
    labels = read(tmp_path, labels=start + written(PLAIN, delimiter))
    assert labels.names == ["ant", "bee", "ant", "bee"]
    assert labels.used == [b"labels.csv"]
    assert labels.lines == ["table labels.csv: file names in 'filename', classes in 'label', 4 images, 2 classes"]


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("image_id", "Class Name"),
        ("Filename", "breed"),
        ("id", "SPECIES"),
        ("img", "diagnosis"),
        ("anything", "target"),
    ],
)
def test_columns__usual_names_in_any_case(tmp_path, file, label):
    header = ["", "note", file, label, "score"]
    rows = [["7", 'a, "b"\nc', name, value, "0.5"] for name, value in zip("1234", ["x", "y", "x", ""], strict=True)]
    assert read(tmp_path, labels=[header, *rows]).names == ["x", "y", "x", ""]


def test_columns__what_names_most_images_is_the_file_column(tmp_path):
    # Numbers of rows name images too, and so does an id.
    rows = [["", "id", "image", "label"], ["1", "9", "3.jpg", "a"], ["2", "8", "2.jpg", "b"], ["3", "7", "1.jpg", "c"]]
    assert read(tmp_path, labels=rows).names == ["c", "b", "a", ""]


def test_columns__of_two_the_other_one_is_the_label_if_it_repeats(tmp_path):
    rows = [["image", "has_cactus"], *([name, str(number % 2)] for number, name in enumerate(PATHS))]
    assert read(tmp_path, labels=rows).names == ["0", "1", "0", "1"]
    captions = [["image", "caption"], *([name, f"a picture of {name}"] for name in PATHS)]
    assert read(tmp_path, labels=captions).lines == [
        "table labels.csv is not used: no column of labels; its columns are 'image', 'caption'; call it label, or one of "
        + ", ".join(LABEL_COLUMNS[1:])
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("1.jpg,ant\n2.jpg,bee\n", "no line of column names"),
        ("x,y\n7.jpg,ant\n", "none of its columns names images; its columns are 'x', 'y'"),
        ("filename,label\n7.jpg,ant\n", "no row names an image"),
        ("filename,label\n", "no rows"),
        ("", "at least two columns"),
        ("filename\n1.jpg\n", "at least two columns"),
        ("filename,label\n1.jpg,ant,more\n", "cannot be read"),
        (b"filename,label\n1.jpg,\xff\xff\n", "cannot be read"),
        (b"\x93\xff\x00\n\x01", "cannot be read"),
        (b"filename,label\r1.jpg,ant\r", "cannot be read"),
    ],
)
def test_read__a_table_that_says_nothing_is_named_with_the_reason(tmp_path, content, why):
    labels = read(tmp_path, labels=content)
    (line,) = labels.lines
    assert line.startswith("table labels.csv is not used: ") and why in line and "\n" not in line
    assert (labels.used, labels.names) == ([], [""] * 4)


def test_read__counts_what_is_missing(tmp_path):
    labels = read(tmp_path, labels="file,label\n1,ant\n2,NaN\n3, \n4,ant\n4,bee\n5,ant\n6,bee\n")
    assert labels.names == ["ant", "", "", ""]
    assert labels.lines[0].endswith(
        "4 images, 1 classes, 2 of them without a class, 1 with several classes, which count as none, 2 rows that name no image"
    )


def test_read__a_name_of_several_images_means_none_and_paths_do(tmp_path):
    paths = ["a/1.jpg", "b/1.jpg", "b/2.jpg"]
    labels = read(tmp_path, paths, labels=[["image", "label"], ["1.jpg", "x"], ["2.jpg", "y"]])
    assert labels.names == ["", "", "y"] and labels.lines[0].endswith("1 rows that name several images")
    labels = read(tmp_path, paths, labels=[["image", "label"], ["a/1.jpg", "x"], ["b/1.jpg", "y"]])
    assert labels.names == ["x", "y", ""]
    assert "write paths" in read(tmp_path, paths, labels=[["image", "label"], ["1.jpg", "x"]]).lines[0]


def test_splits__a_column_is_honoured_in_the_usual_words(tmp_path):
    rows = [["name", "label", "Set"], ["1", "a", "Training"], ["2", "b", "valid"], ["3", "a", "TEST"], ["4", "b", ""]]
    labels = read(tmp_path, labels=rows)
    assert labels.splits == ["train", "val", "test", ""]
    assert "splits in 'Set'" in labels.lines[0]
    without_labels = [[row[0], row[2]] for row in rows]
    assert read(tmp_path, labels=without_labels).splits == ["train", "val", "test", ""]


def test_splits__a_word_among_them_that_is_none_is_an_error(tmp_path):
    rows = [["name", "split"], ["1", "train"], ["2", "query"]]
    with pytest.raises(ValueError, match=r"labels\.csv has 'query' in 'split'; a split is one of train, "):
        read(tmp_path, labels=rows)


def test_splits__a_column_without_any_word_is_none_and_said(tmp_path):
    rows = [["name", "label", "dataset"], ["1", "a", "x"], ["2", "b", "y"]]
    labels = read(tmp_path, labels=rows)
    assert labels.splits == [""] * 4 and "no split is train, val or test in 'dataset'" in labels.lines[0]


def test_splits__the_name_of_a_table_gives_its_images_a_split(tmp_path):
    labels = read(
        tmp_path,
        train=[["id", "label"], ["1", "a"], ["2", "b"]],
        test_labels=[["id", "label"], ["3", "a"]],
        val=[["id"], ["4"]],
    )
    assert (labels.splits, labels.names) == (["train", "train", "test", ""], ["a", "b", "a", ""])
    assert labels.used == [b"train.csv", b"test_labels.csv"]


def test_splits__folders_tell_images_of_one_name_apart(tmp_path):
    paths, splits = ["train/1.jpg", "test/1.jpg", "train/2.jpg"], ["train", "test", "train"]
    tables = {
        "train": [["id", "label"], ["1", "a"], ["2", "b"]],
        # Not there: never the image of that name in another split.
        "test": [["id", "label"], ["1", "b"], ["2", "c"]],
    }
    labels = read(tmp_path, paths, splits, **tables)
    assert (labels.names, labels.splits) == (["a", "b", "b"], splits)
    column = [["id", "split"], ["train/1.jpg", "val"], ["train/2.jpg", "test"], ["2.jpg", "test"]]
    assert read(tmp_path, paths, splits, labels=column).splits == ["val", "test", "test"]


def test_read__tables_that_disagree_are_an_error_and_such_that_agree_are_none(tmp_path):
    assert read(tmp_path, a=PLAIN, b=PLAIN).used == [b"a.csv", b"b.csv"]
    with pytest.raises(ValueError, match=r"b\.csv says that 2\.jpg is cat, a\.csv says bee; keep one of the tables"):
        read(tmp_path, a=PLAIN, b=[["filename", "label"], ["1.jpg", "ant"], ["2.jpg", "cat"]])
    with pytest.raises(ValueError, match=r"train\.csv says that 1\.jpg is train, test\.csv says test; keep one"):
        read(tmp_path, test=PLAIN[:2], train=PLAIN)
    # One that gives an image several classes says nothing of it.
    several = [["filename", "label"], ["2.jpg", "cat"], ["2.jpg", "dog"], ["3.jpg", ""]]
    assert read(tmp_path, a=PLAIN, b=several).names == ["ant", "", "ant", "bee"]


def test_read__a_row_without_a_class_takes_none_away(tmp_path):
    rows = [["id", "label"], ["1", ""], ["1", "ant"], ["2", "bee"], ["2", ""]]
    assert read(tmp_path, labels=rows).names == ["ant", "bee", "", ""]


def test_read__a_column_may_be_called_as_an_image_is(tmp_path):
    rows = [["image", "label"], ["image.jpg", "ant"], ["2.jpg", "bee"]]
    assert read(tmp_path, ["image.jpg", "2.jpg"], labels=rows).names == ["ant", "bee"]
