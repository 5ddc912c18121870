import os

import datasets
import numpy as np
import pyarrow as pa
import pytest

from images.decoding import Refused
from tests.images.sources.test_container_source import labels_of
from tests.images.sources.test_parquet import ENCODED, open_, rows


def write_arrow(path, images, labels=None, *, batch=None, as_file=False, **options):
    """An Arrow stream as datasets writes it, or a file. images: (bytes, path) a row."""
    columns = {"image": pa.array([None if i is None else {"bytes": i[0], "path": i[1]} for i in images], ENCODED)}
    if labels is not None:
        columns["label"] = pa.array(labels)
    table = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = pa.ipc.new_file if as_file else pa.ipc.new_stream
    with (
        pa.OSFile(str(path), "wb") as sink,
        new(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer,
    ):
        writer.write_table(table, batch)


@pytest.mark.parametrize("as_file", [False, True])
def test_source__reads_rows_in_any_order(tmp_path, as_file):
    images = rows(500)
    write_arrow(tmp_path / "a.arrow", images, [0, 1] * 250, batch=70, as_file=as_file)
    write_arrow(tmp_path / "b.feather", rows(10, "b"), [0, 1] * 5, as_file=as_file)
    source = open_(tmp_path)
    assert (source.classes, source.has_masks) == (["0", "1"], False)
    items = {item.path: item for item in source.items}
    for number in (0, 499, 3, 200, 69, 70, 0):
        assert source.read(items[b"%d.png" % number]).image == images[number][0]
        assert source.read(items[b"b%d.png" % (number % 10)]).image == b"bytes of %d" % (number % 10)


def test_source__reads_what_datasets_saves(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pictures = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)
    features = datasets.Features({"img": datasets.Image(), "breed": datasets.ClassLabel(names=["pug", "hound"])})
    whole = datasets.Dataset.from_dict({"img": list(pictures), "breed": [0, 1, 1, 0, 1, -1, None]}, features)
    parts = datasets.DatasetDict({"train": whole.select(range(4)), "test": whole.select(range(4, 7))})
    parts.save_to_disk(tmp_path / "saved", num_shards={"train": 2, "test": 1})
    source = open_(tmp_path / "saved")
    assert source.classes == ["pug", "hound"]
    assert source.rejected == []
    found = {split: [] for split in parts}
    for item, label in zip(source.items, labels_of(source), strict=True):
        found[item.split].append((label, source.read(item).image))
    for split, part in parts.items():
        stored = part.with_format("arrow")[:].to_pylist()
        names = {0: "pug", 1: "hound"}
        assert found[split] == [(names.get(row["breed"]), row["img"]["bytes"]) for row in stored]


def test_source__what_datasets_caches_beside_is_not_read(tmp_path):
    write_arrow(tmp_path / "data-00000-of-00001.arrow", rows(2), [0, 1])
    write_arrow(tmp_path / "cache-1f2e.arrow", rows(2), [0, 1])
    source = open_(tmp_path)
    assert len(source.items) == 2
    assert [(row.path, row.reason) for row in source.rejected] == [("cache-1f2e.arrow", "not an image")]


def test_source__rows_without_bytes(tmp_path):
    write_arrow(tmp_path / "some/0.arrow", [(b"1", "a"), (None, "b"), None], [0, 1, 0])
    source = open_(tmp_path / "some")
    for item in source.items[1:]:
        with pytest.raises(Refused, match="empty"):
            source.read(item)
    write_arrow(tmp_path / "none/0.arrow", [(None, "a"), None], [0, 1])
    with pytest.raises(ValueError, match="only paths or null"):
        open_(tmp_path / "none")


def test_source__names_that_are_not_utf8_are_read(tmp_path):
    write_arrow(tmp_path / "0.arrow", rows(2), [0, 1])
    os.rename(tmp_path / "0.arrow", os.fsencode(tmp_path) + b"/caf\xe9.arrow")
    source = open_(tmp_path)
    assert source.read(source.items[1]).image == b"bytes of 1"


def test_source__images_stay_in_the_file(tmp_path):
    write_arrow(tmp_path / "0.arrow", [(bytes(2**20), f"{n}.png") for n in range(32)], list(range(32)), batch=4)
    before = pa.total_allocated_bytes()
    source = open_(tmp_path)
    source.read(source.items[17])
    assert pa.total_allocated_bytes() - before < 2**20


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("keep", [0, 3, 100, -1, -8, -40])
def test_source__a_file_that_is_cut_off_is_named(tmp_path, as_file, keep):
    write_arrow(tmp_path / "0.arrow", rows(300), [0, 1] * 150, batch=100, as_file=as_file)
    data = (tmp_path / "0.arrow").read_bytes()
    (tmp_path / "0.arrow").write_bytes(data[:keep])
    with pytest.raises(ValueError, match=r"0\.arrow: not a readable Arrow file") as error:
        open_(tmp_path)
    assert "\n" not in str(error.value)


def test_source__arrow_in_a_store_is_refused_with_advice(bucket, tmp_path):
    write_arrow(tmp_path / "0.arrow", rows(2), [0, 1])
    bucket.put_folder(tmp_path, "set")
    with pytest.raises(ValueError, match=r"Arrow files are read on this machine alone; copy s3://.*Parquet"):
        open_(f"{bucket.url}/set")
