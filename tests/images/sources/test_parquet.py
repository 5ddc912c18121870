import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from images.decoding import Refused
from images.sources.items import id_of
from images.sources.parquet import split_of
from images.sources.preparation import open_source

ENCODED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path, images, labels=None, *, names=None, image="image", label="label", label_type=None, group=None):
    """A shard as Hugging Face writes it. images: (bytes, path) a row."""
    columns = {image: pa.array([None if i is None else {"bytes": i[0], "path": i[1]} for i in images], ENCODED)}
    if labels is not None:
        columns[label] = pa.array(labels, label_type)
    features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=group)


def open_(root, image_column="image", label_column="label"):
    return open_source(root, image_column=image_column, label_column=label_column)


def rows(count, prefix=""):
    return [(b"bytes of %d" % i, f"{prefix}{i}.png") for i in range(count)]


@pytest.mark.parametrize(
    ("path", "split"),
    [
        (b"train-00000-of-00002.parquet", "train"), (b"data/validation-0.parquet", "val"),
        (b"test/0000.parquet", "test"), (b"plain_text/test/0.parquet", "test"), (b"part-0.parquet", ""),
        (b"trainer-0.parquet", ""),
    ],
)  # fmt: skip
def test_split_of__reads_names_as_hugging_face_writes_them(path, split):
    assert split_of(path) == split


def test_source__class_names_and_splits_come_from_the_files(tmp_path):
    write(tmp_path / "data/train-00000-of-00001.parquet", rows(3, "a"), [0, 2, 0], names=["cat", "dog", "emu"])
    write(tmp_path / "data/test-00000-of-00001.parquet", rows(1, "b"), [1], names=["cat", "dog", "emu"])
    (tmp_path / "README.md").write_text("---")
    source = open_(tmp_path)
    assert source.classes == ["cat", "dog", "emu"]
    found = {item.path: (item.split, item.label, source.read(item).image) for item in source.items}
    assert found[b"a1.png"] == ("train", 2, b"bytes of 1")
    assert found[b"b0.png"] == ("test", 1, b"bytes of 0")
    assert [item.id for item in source.items] == [id_of(item.path) for item in source.items]
    assert [(row.path, row.reason) for row in source.rejected] == [("README.md", "not an image")]


def test_source__other_column_names_and_label_types(tmp_path):
    write(tmp_path / "numbers/0.parquet", rows(3), [10, 9, 10], image="img", label="fine_label")
    assert open_(tmp_path / "numbers", "img", "fine_label").classes == ["9", "10"]
    write(tmp_path / "words/0.parquet", rows(3), ["b", "a", "b"])
    source = open_(tmp_path / "words")
    assert (source.classes, [item.label for item in source.items]) == (["a", "b"], [1, 0, 1])
    write(tmp_path / "none/0.parquet", rows(3))
    assert open_(tmp_path / "none", label_column="").classes == ["all"]


def test_source__plain_bytes_are_read_too(tmp_path):
    table = pa.table({"image": pa.array([b"one", b"two"]), "label": [0, 1]})
    pq.write_table(table, tmp_path / "0.parquet")
    source = open_(tmp_path)
    assert [source.read(item).image for item in source.items] == [b"one", b"two"]


def test_source__rows_without_distinct_paths_are_named_by_their_place(tmp_path):
    write(tmp_path / "train.parquet", rows(2), [0, 0])
    write(tmp_path / "test.parquet", rows(2), [0, 0])
    assert [item.path for item in open_(tmp_path).items] == [
        b"test.parquet/00000000", b"test.parquet/00000001", b"train.parquet/00000000", b"train.parquet/00000001"
    ]  # fmt: skip


def test_source__reads_rows_in_any_order(tmp_path):
    images = rows(500)
    write(tmp_path / "0.parquet", images, [0] * 500, group=130)
    write(tmp_path / "1.parquet", rows(10, "b"), [0] * 10)
    source = open_(tmp_path)
    places = {item.path: item for item in source.items}
    for number in (0, 499, 3, 200, 201, 499, 131, 0):
        assert source.read(places[b"%d.png" % number]).image == images[number][0]
        assert source.read(places[b"b%d.png" % (number % 10)]).image == b"bytes of %d" % (number % 10)


def test_source__rows_without_label_or_bytes_are_rejected(tmp_path):
    write(tmp_path / "0.parquet", [(b"1", "a"), (None, "b"), (b"3", "c"), (b"4", "d"), None], [0, 0, -1, None, 0])
    source = open_(tmp_path)
    assert [row.reason for row in source.rejected] == ["no label"] * 2
    for item in source.items[1:]:
        with pytest.raises(Refused, match="empty"):
            source.read(item)


def test_source__a_missing_column_or_a_damaged_file_is_named(tmp_path):
    write(tmp_path / "a/0.parquet", rows(2), [0, 1])
    with pytest.raises(ValueError, match=r"data\.image_column.*'img'.*image, label"):
        open_(tmp_path / "a", "img")
    with pytest.raises(ValueError, match=r"data\.label_column.*'fine'.*image, label"):
        open_(tmp_path / "a", label_column="fine")
    with pytest.raises(ValueError, match=r"data\.label_column.*struct"):
        open_(tmp_path / "a", label_column="image")
    data = (tmp_path / "a/0.parquet").read_bytes()
    (tmp_path / "a/1.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"1\.parquet: not a readable Parquet file"):
        open_(tmp_path / "a")
