import pytest

from jobs import notes
from jobs.notes import is_sound, read_note, write_note
from shards.seals import write_sealed


def test_read_note__gives_what_was_written_and_nothing_where_nothing_was(tmp_path):
    write_note(tmp_path / "a.json", {"seconds": 1.5})
    assert read_note(tmp_path / "a.json") == {"seconds": 1.5}
    assert read_note(tmp_path / "b.json") == {}


def test_read_note__of_another_version_is_one_line_and_one_without_a_version_is_of_the_first(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_sealed(path, {"seconds": 1.5})
    assert read_note(path) == {"seconds": 1.5}
    monkeypatch.setattr(notes, "VERSION", 2)
    write_note(path, {"seconds": 1.5})
    monkeypatch.undo()
    with pytest.raises(
        ValueError, match=r"a\.json: got version 2, expected 1; update the code, or see `semmae doctor`"
    ):
        read_note(path)
    assert not is_sound(path)
