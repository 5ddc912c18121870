import os

from images.sources.tree import shown, subfolders, walk


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
    assert subfolders(root) == {b"folder"}


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
