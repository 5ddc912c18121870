import json
import os

import pytest

from shards.files import link_or_copy, read_json, whole_file, whole_folder, write_rows


def test_whole_file__a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path, "w") as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_whole_file__is_invisible_until_complete(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with whole_file(path, "w") as file:
        file.write("new")
        assert not path.exists()
    assert path.read_text() == "new"


def test_whole_folder__replaces_the_old_one_only_on_success(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RuntimeError), whole_folder(path) as target:
        (target / "new").touch()
        raise RuntimeError
    assert os.listdir(path) == ["old"]
    with whole_folder(path) as target:
        (target / "new").touch()
    assert os.listdir(path) == ["new"]
    assert os.listdir(tmp_path) == ["out"]


def test_read_json__names_the_damaged_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match=r"a.json: damaged"):
        read_json(path)
    with pytest.raises(ValueError, match=r"b.json: not found"):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize("rows", [[], [{"step": 1, "loss": 0.5}], [{"step": 1}, {"step": 2}]])
def test_write_rows__is_json_with_one_row_a_line(tmp_path, rows):
    path = tmp_path / "rows.json"
    write_rows(path, rows)
    assert json.loads(path.read_text()) == rows
    inner = path.read_text().splitlines()[1:-1]
    assert [json.loads(line.rstrip(",")) for line in inner] == rows


def test_link_or_copy__gives_equal_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    link_or_copy(tmp_path / "a", tmp_path / "folder" / "b")
    assert (tmp_path / "folder" / "b").read_bytes() == b"x"
