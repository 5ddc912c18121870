import json

import pytest

from shards.files import json_text
from shards.seals import check_files, read_sealed, read_sealed_bytes, sealed_file, write_manifest, write_sealed

DOCUMENT = {"version": 1, "share": 0.1, "shards": [{"file": "a", "rows": 3}], "none": None}


def test_read_sealed__gives_what_was_written(tmp_path):
    write_sealed(tmp_path / "m.json", {**DOCUMENT, "pair": (1, 2), 7: "key"})
    assert read_sealed(tmp_path / "m.json") == {**DOCUMENT, "pair": [1, 2], "7": "key"}


def test_read_sealed__any_other_content_is_refused(tmp_path):
    path = tmp_path / "m.json"
    write_sealed(path, DOCUMENT)
    text = path.read_text()
    whole = json.loads(text)
    others = ({**whole, "share": 0.2}, {**whole, "more": 1}, {"sha256": whole["sha256"]}, DOCUMENT, [], None)
    for changed in (*map(json_text, others), json.dumps(whole, indent=7), text[:-1], f"{text} "):
        path.write_text(changed)
        with pytest.raises(ValueError, match=r"m\.json: damaged: .*dvc repro"):
            read_sealed(path)
    path.write_text(text)
    assert read_sealed(path) == DOCUMENT


def test_check_files__names_what_is_damaged_missing_or_not_listed(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a", "deep/b"):
        (tmp_path / name).write_bytes(name.encode())
    write_manifest(tmp_path)
    check_files(tmp_path, "a", "deep/b")
    (tmp_path / "later").touch()
    (tmp_path / "a").write_bytes(b"A")
    (tmp_path / "deep/b").unlink()
    for name, told in (("a", "a: damaged: its sha256"), ("deep/b", "deep/b: missing"), ("later", "later: damaged")):
        with pytest.raises(ValueError, match=told):
            check_files(tmp_path, name)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"manifest\.json: not found"):
        check_files(tmp_path, "a")


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_sealed_file__is_read_as_it_was_written_or_refused(tmp_path, content):
    path = tmp_path / "f"
    with sealed_file(path) as file:
        file.write(content[:30])
        file.write(memoryview(content[30:]))
    assert read_sealed_bytes(path) == content
    data = path.read_bytes()
    assert len(data) == len(content) + 32
    for damaged in (data[:-1], data[:10], b"", data + b"x", bytes([data[0] ^ 1]) + data[1:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="f: damaged"):
            read_sealed_bytes(path)


def test_sealed_file__an_error_leaves_the_old_one(tmp_path):
    path = tmp_path / "f"
    with sealed_file(path) as file:
        file.write(b"old")
    with pytest.raises(RuntimeError, match="mine"), sealed_file(path) as file:
        file.write(b"half")
        raise RuntimeError("mine")
    assert read_sealed_bytes(path) == b"old"
