import os

import pytest

from images.decoding import Refused
from images.sources.preparation import open_source
from images.sources.tree import (
    FolderRoot,
    StoreRoot,
    check_listing,
    is_litter,
    root_of,
    shown,
    unhashable_entries,
    walk,
    write_listing,
)
from tests.images.sources.test_folder import draw
from tests.images.sources.test_parquet import rows, write


def problems(root):
    return {entry.path: entry.problem for entry in walk(root)}


def test_shown__is_the_path_itself_or_percent_encoded():
    assert shown("train/hütte/1.png".encode()) == "train/hütte/1.png"
    assert shown(b"a/caf\xe9 1.png") == "a/caf%E9%201.png"


def test_walk__lists_every_file_with_its_size(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"123")
    (tmp_path / ".hidden").write_bytes(b"")
    found = {entry.path: entry.size for entry in walk(tmp_path)}
    assert found == {b"a/b/x": 3, b".hidden": 0}


def test_walk__names_what_is_wrong_with_an_entry(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    os.mkfifo(tmp_path / "pipe")
    assert problems(tmp_path) == {
        b"empty": "empty folder", b"broken": "broken link", b"self": "link loop", b"pipe": "not a file"
    }  # fmt: skip


def test_walk__ends_in_spite_of_links_to_folders_above(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "x").write_bytes(b"1")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b" / "root").symlink_to(tmp_path)
    assert problems(tmp_path) == {b"a/x": "", b"a/b/up": "link loop", b"a/b/root": "link loop"}


def test_walk__follows_links_that_lead_elsewhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_bytes(b"1")
    root = tmp_path / "root"
    root.mkdir()
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "file").symlink_to(tmp_path / "elsewhere" / "x")
    assert problems(root) == {b"folder/x": "", b"file": ""}


def test_walk__takes_names_that_are_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9"
    with open(path, "wb") as file:
        file.write(b"1")
    assert problems(tmp_path) == {b"caf\xe9": ""}


def test_walk__an_unreadable_folder_is_one_entry(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "x").write_bytes(b"1")
    scandir = os.scandir

    def refuse(path):
        if os.fsencode(path).endswith(b"closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert problems(tmp_path) == {b"closed": "unreadable folder", b"x": ""}


COLUMNS = {"image_column": "image", "label_column": "label"}


def same_source(here, there):
    assert (here.classes, here.has_masks, here.read_in_order) == (there.classes, there.has_masks, there.read_in_order)
    assert here.rejected == there.rejected == sorted(here.rejected)
    assert here.items == there.items and here.items
    assert [read(here, item) for item in here.items] == [read(there, item) for item in there.items]


def read(source, item):
    try:
        return source.read(item)
    except Refused as refused:
        return refused.reason, refused.detail


@pytest.mark.parametrize(
    "paths",
    [
        ["cat/1.png", "dog/2.png", "dog/deep/er/3.png"],
        ["train/cat/1.png", "validation/cat/2.png", "test/dog ä/3 4.png", "LICENSE.png", ".hidden/x.png"],
        ["images/train/cat/1.png", "images/test/cat/2.png", "masks/train/cat/1.png", "masks/train/cat/9.png"],
        ["1.png", "2.png"],
        ["train/1.png", "plane/2.png"],
    ],
)
def test_source__of_image_files_is_the_same_in_a_store(bucket, tmp_path, paths):
    draw(tmp_path, *paths)
    (tmp_path / paths[0]).with_name("text.txt").write_text("no image")
    (tmp_path / paths[0]).with_name("empty.png").write_bytes(b"")
    bucket.put_folder(tmp_path, "photos")
    same_source(open_source(tmp_path, **COLUMNS), open_source(f"{bucket.url}/photos", **COLUMNS))


def test_source__of_parquet_files_is_the_same_in_a_store(bucket, tmp_path):
    for name, count, labels in (("train-0", 30, [n % 3 for n in range(30)]), ("test-0", 5, [0, 1, 2, None, -1])):
        write(tmp_path / f"data/{name}.parquet", rows(count, name), labels, names=["a", "b", "c"], group=7)
    (tmp_path / "README.md").write_text("about")
    bucket.put_folder(tmp_path, "set")
    same_source(open_source(tmp_path, **COLUMNS), open_source(f"{bucket.url}/set/", **COLUMNS))


def test_source__a_picture_takes_one_request(bucket, tmp_path):
    draw(tmp_path, *(f"cat/{number}.png" for number in range(10)))
    bucket.put_folder(tmp_path, "photos")
    bucket.asked()
    source = open_source(f"{bucket.url}/photos", **COLUMNS)
    assert len(bucket.asked()) <= 2, "a listing, and the head of a class's first file"
    for item in source.items:
        source.read(item)
    assert [request.method for request in bucket.asked()] == ["GET"] * 10


def test_source__listing_parquet_files_fetches_no_images(bucket, tmp_path):
    images = [(bytes(100_000) + b"%d" % number, f"{number}.png") for number in range(100)]
    write(tmp_path / "train.parquet", images, [0] * 100, group=10)
    bucket.put_folder(tmp_path, "set")
    bucket.asked()
    assert len(open_source(f"{bucket.url}/set", **COLUMNS).items) == 100
    assert sum(request.bytes for request in bucket.asked()) < 500_000


def test_source__an_object_that_is_gone_is_refused_and_the_rest_is_read(bucket, tmp_path):
    draw(tmp_path, "cat/1.png", "cat/2.png")
    bucket.put_folder(tmp_path, "photos")
    source = open_source(f"{bucket.url}/photos", **COLUMNS)
    bucket.delete("photos/cat/1.png")
    with pytest.raises(Refused, match="unreadable: .*photos/cat/1.png: there is no such object"):
        source.read(source.items[0])
    assert source.read(source.items[1]).image == (tmp_path / "cat/2.png").read_bytes()


def test_root__without_anything_is_one_line(bucket, tmp_path):
    with pytest.raises(ValueError, match=rf"^data\.path: nothing below {bucket.url}/none; put the images there"):
        root_of(f"{bucket.url}/none")
    with pytest.raises(ValueError, match=rf"^data\.path: no folder {tmp_path}/none"):
        root_of(tmp_path / "none")
    with pytest.raises(OSError, match=r"^s3://no-such-bucket/x: there is no such object"):
        root_of("s3://no-such-bucket/x")


def test_listing__of_a_store_changes_when_an_object_does(bucket, tmp_path):
    out = tmp_path / "listing.txt"
    bucket.put("photos/b 1.png", b"one")
    bucket.put("photos/a.png", b"two")
    write_listing(StoreRoot(f"{bucket.url}/photos"), out)
    first = out.read_text()
    head, *lines = first.splitlines()
    assert head == f"listing of {bucket.url}/photos"
    assert [line.split("\t")[:2] for line in lines] == [["a.png", "3"], ["b%201.png", "3"]]
    write_listing(StoreRoot(f"{bucket.url}/photos"), out)
    assert out.read_text() == first
    bucket.put("photos/a.png", b"owt")
    write_listing(StoreRoot(f"{bucket.url}/photos"), out)
    assert out.read_text() != first


def test_listing__changes_when_an_entry_does(tmp_path):
    root, out = tmp_path / "images", tmp_path / "listing.txt"
    draw(root, "cat/1.png", "dog/2 3.png")
    with open(os.fsencode(root) + b"/cat/caf\xe9.png", "wb"):
        pass
    (root / "broken").symlink_to("nowhere")
    write_listing(FolderRoot(root), out)
    first = out.read_text()
    assert [line.split("\t")[0] for line in first.splitlines()[1:]] == [
        "broken", "cat/1.png", "cat/caf%E9.png", "dog/2%203.png"
    ]  # fmt: skip
    write_listing(FolderRoot(root), out)
    assert out.read_text() == first
    os.utime(root / "cat/1.png", ns=(1, 1))
    write_listing(FolderRoot(root), out)
    assert out.read_text() != first


def test_check_listing__takes_the_listing_of_this_place_alone(tmp_path):
    root, out = tmp_path / "Bilder für 2\tx", tmp_path / "listing.txt"
    draw(root, "cat/1.png")
    write_listing(FolderRoot(root), out)
    check_listing(out, str(root))
    check_listing(out, f"{root}/")
    with pytest.raises(
        ValueError, match=r"listing\.txt: got listing of .*Bilder.*expected the listing of other; run `semmae"
    ):
        check_listing(out, "other")
    # One without a head, as the first form had none, and one cut in its head.
    for text in ("cat/1.png\t3\t1\n", f"listing of {root}"[:-1], "", "\xff"):
        out.write_text(text)
        with pytest.raises(ValueError, match="expected the listing of"):
            check_listing(out, str(root))
    out.unlink()
    with pytest.raises(ValueError, match="got no listing, expected the listing of"):
        check_listing(out, str(root))


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


@pytest.mark.parametrize(
    "path",
    [".DS_Store", "a/._1.jpg", ".git/x/1.jpg", "a/.ipynb_checkpoints/1-checkpoint.jpg", "Thumbs.db", "a/thumbs.DB",
     "Desktop.ini", "__MACOSX/a/1.jpg", "a/__MACOSX", "@eaDir/1.jpg", "a/Icon\r", ".", "a/.b/c.jpg"],
)  # fmt: skip
def test_is_litter__hidden_or_left_by_a_file_manager(path):
    assert is_litter(path.encode())


@pytest.mark.parametrize(
    "path",
    ["a/1.jpg", "a.b/1", "Thumbs.db.jpg", "aThumbs.db", "x__MACOSX/1.jpg", "__MACOSX2/1.jpg", "Icon", "", "a/1..jpg"],
)
def test_is_litter__nothing_else(path):
    assert not is_litter(path.encode())
