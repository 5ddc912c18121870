import io
import tarfile

import pytest

from images.sources.preparation import open_source
from tests.images.sources.test_arrow import write_arrow
from tests.images.sources.test_folder import draw
from tests.images.sources.test_parquet import rows, write
from tests.images.sources.test_webdataset import write_tar

COLUMNS = {"image_column": "image", "label_column": "label"}


def fill(root, kinds):
    for kind in kinds:
        if kind == "images":
            draw(root, "cat/1.png", "dog/2.png")
        elif kind == "parquet":
            write(root / "train.parquet", rows(2), [0, 1])
        elif kind == "table":
            write(root / "table.parquet", rows(2), [0, 1], image="other")
        elif kind == "arrow":
            write_arrow(root / "data.arrow", rows(2), [0, 1])
        elif kind == "tar":
            write_tar(root / "train.tar", [(f"{n}.jpg", b"image" * 100) for n in range(2)])
        elif kind == "notes":
            write_tar(root / "notes.tar", [("notes.xml", b"<a/>" * 10_000)])


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["images"], "layout"),
        (["parquet"], "Parquet files"),
        (["arrow"], "Arrow files"),
        (["tar"], "WebDataset files"),
        # A lone table may have its images under any name.
        (["table"], "Parquet files"),
        (["images", "parquet"], "Parquet files"),
        (["images", "arrow"], "Arrow files"),
        (["images", "tar"], "WebDataset files"),
        (["images", "table"], "layout"),
        (["images", "notes"], "layout"),
        (["tar", "table"], "WebDataset files"),
        (["parquet", "notes"], "Parquet files"),
    ],
)
def test_open_source__chooses_what_holds_images_and_says_what_it_leaves(tmp_path, kinds, expected):
    fill(tmp_path, kinds)
    source = open_source(tmp_path, **COLUMNS)
    assert len(source.items) == 2
    assert source.notes[0].startswith(expected)
    left = [note for note in source.notes if note.endswith("are not read")]
    assert len(left) == len(kinds) - 1


def test_open_source__a_tar_beside_the_images_that_came_out_of_it_is_not_read(tmp_path):
    names = [f"{'cat' if n % 2 else 'dog'}/{n}.png" for n in range(20)]
    draw(tmp_path, *names)
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for name in names:
            (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + bytes(2000))
            tar.add(tmp_path / name, name)
    source = open_source(tmp_path, **COLUMNS)
    assert (len(source.items), source.classes) == (20, ["cat", "dog"])
    assert "1 WebDataset files are not read" in source.notes


def test_open_source__two_kinds_of_images_are_refused(tmp_path):
    fill(tmp_path, ["parquet", "tar"])
    with pytest.raises(
        ValueError, match=r"holds images as Parquet \(train.parquet\) and WebDataset \(train.tar\); leave one"
    ):
        open_source(tmp_path, **COLUMNS)


@pytest.mark.parametrize("name", ["photos.tar.gz", "photos.ZIP", "photos.tgz"])
def test_open_source__a_packed_archive_alone_is_to_be_unpacked(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match=f"no image below .*; unpack {name}$"):
        open_source(tmp_path, **COLUMNS)


def test_open_source__a_packed_tar_beside_tars_is_never_left_out_in_silence(tmp_path):
    fill(tmp_path, ["tar"])
    buffer = io.BytesIO()
    tarfile.open(fileobj=buffer, mode="w:gz").close()
    (tmp_path / "test.tar.gz").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"test\.tar\.gz is a packed archive beside tars; unpack"):
        open_source(tmp_path, **COLUMNS)
