import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from images.decoding import Refused
from images.sources.items import id_of
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


def test_source__plain_bytes_are_read_too(tmp_path):
    table = pa.table({"image": pa.array([b"one", b"two"]), "label": [0, 1]})
    pq.write_table(table, tmp_path / "0.parquet")
    source = open_(tmp_path)
    assert [source.read(item).image for item in source.items] == [b"one", b"two"]


def test_source__reads_rows_in_any_order(tmp_path):
    images = rows(500)
    write(tmp_path / "0.parquet", images, [0] * 500, group=130)
    write(tmp_path / "1.parquet", rows(10, "b"), [0] * 10)
    source = open_(tmp_path)
    places = {item.path: item for item in source.items}
    for number in (0, 499, 3, 200, 201, 499, 131, 0):
        assert source.read(places[b"%d.png" % number]).image == images[number][0]
        assert source.read(places[b"b%d.png" % (number % 10)]).image == b"bytes of %d" % (number % 10)


def test_source__rows_without_bytes_are_refused_one_by_one(tmp_path):
    write(tmp_path / "0.parquet", [(b"1", "a"), (None, "b"), None], [0, 1, 0])
    source = open_(tmp_path)
    assert source.read(source.items[0]).image == b"1"
    for item in source.items[1:]:
        with pytest.raises(Refused, match="empty"):
            source.read(item)


@pytest.mark.parametrize("plain", [False, True])
def test_source__without_any_bytes_is_refused_at_once(tmp_path, plain):
    write(tmp_path / "0.parquet", [(None, "/data/a.png"), None], [0, 1])
    if plain:
        pq.write_table(pa.table({"image": pa.nulls(3, pa.binary()), "label": [0, 1, 0]}), tmp_path / "0.parquet")
    with pytest.raises(ValueError, match=r"data\.image_column: no row .* only paths or null; .*save_to_disk"):
        open_(tmp_path)


def test_source__a_damaged_file_is_named(tmp_path):
    write(tmp_path / "0.parquet", rows(2), [0, 1])
    data = (tmp_path / "0.parquet").read_bytes()
    (tmp_path / "1.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"1\.parquet: not a readable Parquet file"):
        open_(tmp_path)


def test_source__a_page_that_is_damaged_is_named_when_it_is_read(tmp_path):
    images = [(bytes([n]) * 5000, None) for n in range(40)]
    write(tmp_path / "0.parquet", images, [0, 1] * 20, group=4)
    data = bytearray((tmp_path / "0.parquet").read_bytes())
    data[2000:2100] = bytes(100)
    (tmp_path / "0.parquet").write_bytes(data)
    source = open_(tmp_path)
    with pytest.raises(ValueError, match=r"0\.parquet: not a readable Parquet file"):
        [source.read(item) for item in source.items]


@pytest.mark.parametrize("is_plain", [False, True])
def test_source__masks_of_some_files_are_read(tmp_path, is_plain):
    write(tmp_path / "0.parquet", rows(2, "a"), [0, 1])
    write(tmp_path / "1.parquet", rows(2, "b"), [0, 1])
    masks = pa.array([b"mask", None]) if is_plain else pa.array([{"bytes": b"mask", "path": "m.png"}, None], ENCODED)
    pq.write_table(pq.read_table(tmp_path / "1.parquet").append_column("mask", masks), tmp_path / "1.parquet")
    source = open_(tmp_path)
    assert source.has_masks
    read = [source.read(item)[1:] for item in source.items]
    assert read == [(None, None)] * 2 + [(b"mask", None if is_plain else "m.png"), (None, None)]
