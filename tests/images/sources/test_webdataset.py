import io
import json
import random
import tarfile

import pytest

from images.sources import webdataset
from tests.images.sources.test_container_source import labels_of
from tests.images.sources.test_parquet import open_


def write_tar(path, files, *, format=tarfile.PAX_FORMAT):
    """A tar of (name, bytes or a TarInfo without content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files:
            entry = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.name, entry.size = name, 0 if entry is data else len(data)
            tar.addfile(entry, None if entry is data else io.BytesIO(data))


def samples(count, label=lambda number: number % 3):
    for number in range(count):
        yield f"{number:06d}.jpg", b"image %d " % number * (number % 7 + 1)
        yield f"{number:06d}.cls", b"%d\n" % label(number)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_source__reads_images_and_labels_in_any_order(tmp_path, format):
    write_tar(tmp_path / "train-000000.tar", samples(40), format=format)
    write_tar(tmp_path / "test-000000.tar", samples(5), format=format)
    source = open_(tmp_path)
    assert source.classes == ["0", "1", "2"]
    assert source.notes[0] == "WebDataset files: 2; splits in their names: test, train"
    items = {item.path: item for item in source.items}
    assert len(items) == 45
    order = list(items)
    random.Random(0).shuffle(order)
    for path in order:
        number = int(path[-10:-4])
        assert source.read(items[path]).image == b"image %d " % number * (number % 7 + 1)
        assert items[path].label == number % 3
        assert items[path].split == path.partition(b"-")[0].decode()


def test_source__labels_in_any_order_and_numbers_sort_by_value(tmp_path):
    files = list(samples(12, label=lambda number: number - 1))
    random.Random(0).shuffle(files)
    write_tar(tmp_path / "0.tar", files)
    source = open_(tmp_path)
    assert source.classes == [str(number) for number in range(11)]
    labels = dict(zip((item.path for item in source.items), labels_of(source), strict=True))
    assert labels == {b"0.tar/%06d.jpg" % number: str(number - 1) if number else None for number in range(12)}


@pytest.mark.parametrize(
    ("column", "document", "expected"),
    [
        ("label", {"label": "cat", "class": "other"}, "cat"),
        ("label", {"width": 3, "class_name": "cat"}, "cat"),
        ("label", {"width": 3}, "7"),
        ("label", {"label": None}, "7"),
        ("breed", {"label": "cat", "breed": "pug"}, "pug"),
        ("breed", {"label": "cat"}, None),
        ("cls", {"width": 3}, "7"),
        ("label", [1, 2], "7"),
    ],
)
def test_source__a_label_in_json_comes_before_cls(tmp_path, column, document, expected):
    for name in ("a", "b"):
        other = {"breed": name, "label": name} if name == "b" else document
        write_tar(
            tmp_path / f"{name}.tar",
            [
                ("1.cls", b"7"),
                ("1.json", json.dumps(other).encode()),
                ("1.png", b"1"),
                ("2.PNG", b"2"),
                ("2.cls", b"8"),
            ],
        )
    assert labels_of(open_(tmp_path, label_column=column))[0] == expected


def test_source__without_labels_says_so(tmp_path):
    write_tar(tmp_path / "0.tar", [("cat/1.jpg", b"1"), ("dog/1.jpg", b"2"), ("dog/1.txt", b"a dog")])
    source = open_(tmp_path)
    assert [item.path for item in source.items] == [b"0.tar/cat/1.jpg", b"0.tar/dog/1.jpg"]
    assert (source.classes, labels_of(source)) == ([], [None, None])
    assert "files in tars that are not read: .txt" in source.notes
    assert any("unpack it if its folders are the classes" in note for note in source.notes)


def test_source__an_empty_label_column_reads_none(tmp_path):
    write_tar(tmp_path / "0.tar", samples(6))
    assert open_(tmp_path, label_column="").classes == []


@pytest.mark.parametrize("suffix", ["mask.png", "seg.png"])
def test_source__masks_stand_beside_their_images(tmp_path, suffix):
    write_tar(tmp_path / "0.tar", [("1.jpg", b"1"), (f"1.{suffix}", b"mask"), ("2.jpg", b"2")])
    source = open_(tmp_path)
    assert source.has_masks
    assert [source.read(item) for item in source.items] == [(b"1", b"mask", f"1.{suffix}"), (b"2", None, None)]


def test_source__a_mask_without_an_image_is_listed(tmp_path):
    write_tar(tmp_path / "0.tar", [("1.jpg", b"1"), ("2.mask.png", b"mask")])
    source = open_(tmp_path)
    assert not source.has_masks
    assert [(row.path, row.reason) for row in source.rejected] == [("0.tar/2.mask.png", "mask without an image")]


def test_source__a_mask_too_large_to_store_is_listed_and_its_image_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "_MOST_BYTES", 3)
    write_tar(tmp_path / "0.tar", [("1.jpg", b"1"), ("1.mask.png", b"mask"), ("2.jpg", b"large")])
    source = open_(tmp_path)
    assert [source.read(item) for item in source.items] == [(b"1", None, None)]
    assert [row.reason for row in source.rejected] == ["large mask", "too large"]


def test_source__names_may_hold_dots_and_any_bytes(tmp_path):
    write_tar(
        tmp_path / "0.tar", [("a.v2.jpg", b"1"), ("a.v2.cls", b"x"), ("ä/\udce9.webp", b"2"), ("ä/\udce9.cls", b"y")]
    )
    source = open_(tmp_path)
    assert [(item.path, source.read(item).image) for item in source.items] == [
        (b"0.tar/a.v2.jpg", b"1"), ("0.tar/ä/".encode() + b"\xe9.webp", b"2")
    ]  # fmt: skip
    assert labels_of(source) == ["x", "y"]


def test_source__names_may_begin_at_the_folder_that_was_packed(tmp_path):
    write_tar(tmp_path / "0.tar", [("./a/1.jpg", b"1"), ("./a/1.cls", b"x"), ("./a/2.jpg", b"2"), ("./a/2.cls", b"y")])
    source = open_(tmp_path)
    assert [item.path for item in source.items] == [b"0.tar/a/1.jpg", b"0.tar/a/2.jpg"]
    assert labels_of(source) == ["x", "y"]


def test_source__litter_and_what_is_no_file_is_rejected(tmp_path):
    folder, link, device = tarfile.TarInfo(), tarfile.TarInfo(), tarfile.TarInfo()
    folder.type, link.type, link.linkname, device.type = (
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        "/etc/passwd",
        tarfile.CHRTYPE,
    )
    write_tar(
        tmp_path / "0.tar",
        [("a", folder), ("a/1.jpg", b"1"), ("a/2.jpg", link), ("a/3.jpg", device), ("a/._1.jpg", b"\0\5\26\7")],
    )
    source = open_(tmp_path)
    assert [item.path for item in source.items] == [b"0.tar/a/1.jpg"]
    assert [(row.path, row.reason) for row in source.rejected] == [
        ("0.tar/a/._1.jpg", "litter"), ("0.tar/a/2.jpg", "not a file"), ("0.tar/a/3.jpg", "not a file")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"{", "0.tar/1.json: not readable JSON"),
        (b"[" * 10**5, "0.tar/1.json: not readable JSON"),
        (b'{"label": [1, 2]}', r"data\.label_column: .*0.tar/1.json holds several classes"),
        (b'{"class": 1, "target": 2}', r"data\.label_column: .*0.tar/1.json has classes in class, target; name one"),
        (bytes(2**20 + 1), "1.json has 1048577 bytes, a label at most 1048576"),
    ],
)
def test_source__a_label_that_cannot_be_used_is_named(tmp_path, document, message):
    write_tar(tmp_path / "0.tar", [("1.jpg", b"1"), ("1.json", document)])
    with pytest.raises(ValueError, match=message) as error:
        open_(tmp_path)
    assert "\n" not in str(error.value)


def test_source__an_image_that_stands_twice_is_named(tmp_path):
    write_tar(tmp_path / "0.tar", [("1.jpg", b"1"), ("1.jpg", b"2")])
    with pytest.raises(ValueError, match="holds 1.jpg twice"):
        open_(tmp_path)


def test_source__is_the_same_in_a_store(bucket, tmp_path):
    write_tar(tmp_path / "train-0.tar", samples(30))
    bucket.put_folder(tmp_path, "set")
    here, there = open_(tmp_path), open_(f"{bucket.url}/set")
    bucket.asked()
    assert [(item.path, item.label, here.read(item)) for item in here.items] == [
        (item.path, item.label, there.read(item)) for item in there.items
    ]
    assert len(bucket.asked()) == 1, "read ahead"
