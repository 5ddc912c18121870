import pyarrow.parquet as pq
import pytest
from PIL import Image

from images.sources.attributes import check_attributes, read_attributes, write_attributes
from images.sources.folder import FolderSource
from images.sources.items import Item
from images.sources.tree import root_of

PLACES = {
    "train/a/1.png": "train",
    "train/b/2.png": "train",
    "train/b/1.png": "train",
    "val/a/3.png": "val",
    "test/a/1.png": "test",
}
ITEMS = [Item(path.encode(), number, split, 0) for number, (path, split) in enumerate(PLACES.items())]


def read(tmp_path, text, names=("wings", "mark")):
    (tmp_path / "attributes.csv").write_text(text, encoding="utf-8")
    return read_attributes(str(tmp_path), names, ITEMS)


def test_read_attributes__rows_name_images_and_blank_cells_say_nothing(tmp_path):
    found = read(
        tmp_path,
        "path,mark,more,wings\ntrain/a/1.png,plain,x,two\ntest/a/1.png,, y ,none\n3.png,spots,,\nelsewhere.png,plain,,two\n",
    )
    assert found == {"wings": {0: "two", 4: "none"}, "mark": {0: "plain", 3: "spots"}}


def test_read_attributes__without_names_reads_no_table(tmp_path):
    assert read_attributes(str(tmp_path / "nothing"), [], ITEMS) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("path,mark\n2.png,plain\n", "no column wings; there are path, mark"),
        ("path,mark,wings\nx.png,plain,two\n", r"none of its columns names images|leave it out"),
        ("path,mark,wings\n1.png,plain,two\n", "'1.png' names several images; write paths instead of names"),
        ("", "its first line is not a list of at least two columns; put the table there, or set data.attributes to"),
    ],
)  # fmt: skip
def test_read_attributes__a_table_that_does_not_serve_is_one_line(tmp_path, text, problem):
    with pytest.raises(ValueError, match=problem) as raised:
        check_attributes(read(tmp_path, text), {split: [] for split in ("train", "val", "test")})
    assert "\n" not in str(raised.value) and str(raised.value).startswith("data.attributes")


def test_read_attributes__a_missing_table_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"data\.attributes \['mark'\]: .*attributes\.csv: it cannot be read .*put the table there"
    ):
        read_attributes(str(tmp_path), ["mark"], ITEMS)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({0: "a", 1: "a", 2: "b", 3: "a", 4: "b"}, None),
        ({0: "a", 1: "a", 3: "a", 4: "b"}, r"mark has 1 value\(s\) among the training images"),
        ({0: "a", 1: "b", 4: "b"}, "no image of val has a value of mark"),
        ({0: "a", 1: "b", 3: "b"}, "no image of test has a value of mark"),
    ],
)
def test_check_attributes__needs_two_values_to_learn_and_some_to_ask_about(values, problem):
    kept = {"train": [0, 1, 2], "val": [3], "test": [4]}
    if problem is None:
        return check_attributes({"mark": values}, kept)
    with pytest.raises(ValueError, match=problem):
        check_attributes({"mark": values}, kept)


def test_write_attributes__is_sorted_by_id_and_holds_kept_images_alone(tmp_path):
    write_attributes(str(tmp_path / "a.parquet"), {"mark": {7: "x", 2: "y", 5: "z"}, "wings": {2: "two"}}, [5, 2, 3])
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert rows == [{"id": 2, "mark": "y", "wings": "two"}, {"id": 5, "mark": "z", "wings": None}]


def test_open_source__a_table_of_attributes_is_none_of_labels(tmp_path):
    for number in range(6):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,{'ab'[number % 2]}" for number in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["filename,label", *rows]))
    (tmp_path / "attributes.csv").write_text("\n".join(["filename,species", *(row[:-1] + "z" for row in rows)]))
    root = root_of(str(tmp_path))
    source = FolderSource(root, sorted(root.walk(), key=lambda entry: entry.path))
    assert source.classes == ["a", "b"]
    assert not any("attributes" in row.path for row in source.rejected)
    assert "table attributes.csv: attributes; data.attributes names the columns to use" in source.notes
