import threading

import pytest

from pipeline.waiting import patience


def test_patience__tells_until_the_work_ends_however_it_ends(capsys):
    before = threading.active_count()
    with pytest.raises(KeyError), patience("mine: listing", seconds=0.01):
        threading.Event().wait(0.2)
        raise KeyError
    assert threading.active_count() == before
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 20 and set(lines) == {"mine: listing: 0 s so far"}


def test_patience__is_silent_about_short_work(capsys):
    with patience("mine: listing"):
        pass
    assert capsys.readouterr() == ("", "")
