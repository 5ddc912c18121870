import os

import pytest

from images.sources.items import Item
from images.sources.preparation import _check_ids, open_source
from images.sources.tree import FolderRoot, list_entries, unhashable_entries, write_listing
from tests.images.sources.test_folder import draw
from tests.images.sources.test_parquet import rows, write

COLUMNS = {"image_column": "image", "label_column": "label"}


def test_open_source__no_folder_or_no_image_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path: no folder"):
        open_source(tmp_path / "none", **COLUMNS)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match="no image among the 1 entries"):
        open_source(tmp_path, **COLUMNS)


def test_open_source__a_stray_table_among_image_files_is_no_source(tmp_path):
    draw(tmp_path, "cat/1.png")
    write(tmp_path / "table.parquet", rows(1), image="other")
    source = open_source(tmp_path, **COLUMNS)
    assert [item.path for item in source.items] == [b"cat/1.png"]
    assert [(row.path, row.reason) for row in source.rejected] == [("table.parquet", "not an image")]


def test_open_source__a_picture_beside_shards_is_no_source(tmp_path):
    draw(tmp_path, "assets/example.png")
    write(tmp_path / "data/train-0.parquet", rows(2), [0, 1])
    source = open_source(tmp_path, **COLUMNS)
    assert len(source.items) == 2
    assert [row.path for row in source.rejected] == ["assets/example.png"]


def test_check_ids__two_paths_of_one_id_are_refused():
    class Two:
        items = (Item(b"a", 7, "", 0), Item(b"b", 7, "", 0))

    with pytest.raises(ValueError, match="a and b have the same id 7"):
        _check_ids(Two())


def test_listing__changes_when_an_entry_does(tmp_path):
    root, out = tmp_path / "images", tmp_path / "listing.txt"
    draw(root, "cat/1.png", "dog/2 3.png")
    with open(os.fsencode(root) + b"/cat/caf\xe9.png", "wb"):
        pass
    (root / "broken").symlink_to("nowhere")
    write_listing(FolderRoot(root), out)
    first = out.read_text()
    assert [line.split("\t")[0] for line in first.splitlines()] == [
        "broken", "cat/1.png", "cat/caf%E9.png", "dog/2%203.png"
    ]  # fmt: skip
    write_listing(FolderRoot(root), out)
    assert out.read_text() == first
    os.utime(root / "cat/1.png", ns=(1, 1))
    write_listing(FolderRoot(root), out)
    assert out.read_text() != first
    assert {path for path, _, _ in list_entries(FolderRoot(root))} >= {b"cat/caf\xe9.png", b"broken"}


def test_unhashable_entries__names_what_dvc_stops_at(tmp_path, monkeypatch):
    draw(tmp_path, "cat/1.png", "cat/closed.png")
    (tmp_path / "empty").mkdir()
    assert unhashable_entries(tmp_path) == []
    elsewhere = tmp_path.parent / f"{tmp_path.name}_elsewhere"
    draw(elsewhere, "1.png")
    (tmp_path / "dog").symlink_to(elsewhere)
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb"):
        pass
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "cat" / "loop").symlink_to("..")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: b"closed" not in path and access(path, mode))
    assert dict(unhashable_entries(tmp_path)) == {
        "dog": "a link to a folder, which DVC does not follow",
        "caf%E9.png": "its name is not UTF-8",
        "broken": "broken link",
        "cat/loop": "link loop",
        "cat/closed.png": "unreadable",
    }
