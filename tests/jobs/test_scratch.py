import os
import pickle

import pytest

from jobs import scratch
from jobs.scratch import Scratch
from shards.seals import sealed_file


@pytest.fixture(autouse=True)
def _state(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "state_folder", lambda: tmp_path)


def test_scratch__two_processes_cannot_hold_the_same_job():
    with Scratch("job", "a"), pytest.raises(ValueError, match="another process runs this very job"):
        Scratch("job", "a")


def test_scratch__the_one_before_takes_the_place_of_a_damaged_checkpoint(capsys):
    place = Scratch("job", "a")
    for step in range(4):
        place.save({"step": step})
    assert place.load() == {"step": 3}
    place.checkpoint.write_bytes(place.checkpoint.read_bytes()[:-1])
    assert place.load() == {"step": 2}
    assert "checkpoint.pt: damaged" in capsys.readouterr().out
    place.save({"step": 3})
    place.save({"step": 4})
    place.checkpoint.unlink()
    assert place.load() == {"step": 3}
    place.save({"step": 4})
    for path in (place.checkpoint, place.previous):
        path.write_bytes(b"")
    assert place.load() is None


def test_scratch__a_checkpoint_with_code_in_it_is_refused():
    class Evil:
        def __reduce__(self):
            return (os.system, ("true",))

    place = Scratch("job", "a")
    with sealed_file(place.checkpoint) as file:
        file.write(pickle.dumps(Evil()))
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        place.load()


def test_scratch__a_checkpoint_of_another_version_is_named_and_not_used(monkeypatch, capsys):
    monkeypatch.setattr(scratch, "VERSION", scratch.VERSION + 1)
    place = Scratch("job", "a")
    place.save({"step": 3})
    assert place.load() == {"step": 3}
    monkeypatch.undo()
    assert place.load() is None
    assert (
        f"got version {scratch.VERSION + 1}, expected {scratch.VERSION}; training starts anew"
        in capsys.readouterr().out
    )
