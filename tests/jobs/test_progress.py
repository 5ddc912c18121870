import re

import pytest

from jobs import progress as module
from jobs.progress import Meter, progress
from pipeline.execution import progress_of


@pytest.fixture
def clock(monkeypatch):
    """The time, which passes only where a test says so; nothing is on a terminal."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.sys.stdout, "isatty", lambda: False, raising=False)
    return now


@pytest.fixture
def noted(monkeypatch):
    facts = {}
    monkeypatch.setattr(module, "note", facts.update)
    return facts


def test_meter__prints_what_is_done_and_the_time_left_when_it_is_due(clock, capsys, noted):
    meter = Meter(8, label="probe", unit="fits", seconds=5)
    clock[0] += 4
    meter.advance(1)
    assert capsys.readouterr().out == ""
    clock[0] += 4
    meter.advance(1, "loss 2")
    assert capsys.readouterr().out == "probe: 2/8 fits, 24 s left, 0.25 fits/s, loss 2\n"
    clock[0] += 1
    meter.close()
    assert capsys.readouterr().out == "probe: 2 fits, 0.22 fits/s\n"
    assert noted == {}, "fits are no images"


def test_meter__prints_from_the_midst_of_the_first_unit(clock, capsys):
    meter = Meter(3, label="probe", unit="fits", seconds=5)
    clock[0] += 60
    meter.advance(0)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("probe: 0/3 fits, 60 s so far")
    assert progress_of(line) == 0.0


@pytest.mark.parametrize("unit", ["images", "fits", "clusterings", "MiB"])
def test_meter__its_lines_are_read_as_shares_by_the_walk(clock, capsys, unit):
    meter = Meter(4, label="stage 3/4", unit=unit, seconds=0)
    clock[0] += 1
    meter.advance(1)
    assert progress_of(capsys.readouterr().out) == 0.25


def test_meter__records_images_without_those_of_an_earlier_try(clock, noted, capsys):
    with Meter(10, label="train", done=4) as meter:
        clock[0] += 2
        meter.advance(6)
    assert noted == {"images": 6, "image_seconds": 2.0}
    assert capsys.readouterr().out == "train: 10 images, 3 images/s\n"


def test_meter__an_error_ends_it_without_a_closing_line(clock, noted, capsys):
    with pytest.raises(RuntimeError), Meter(10, label="train"):
        raise RuntimeError
    assert (capsys.readouterr().out, noted) == ("", {})


def test_progress__passes_every_item_on_and_counts_those_that_are_done(clock, capsys):
    lines = []
    for item in progress("abc", total=3, label="l", unit="shards", seconds=0):
        lines += [(item, line) for line in capsys.readouterr().out.splitlines()]
        clock[0] += 1
    lines += [("", line) for line in capsys.readouterr().out.splitlines()]
    assert [(item, re.match(r"l: (\d)", line)[1]) for item, line in lines] == [
        ("b", "1"), ("c", "2"), ("", "3"), ("", "3"),
    ]  # fmt: skip
