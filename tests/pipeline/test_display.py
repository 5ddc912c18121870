"""What the display shows of a sequence of events, on consoles of fixed width."""

import io
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console

from pipeline import display
from pipeline.display import Display, clock, shown
from pipeline.execution import CANCELLED, FAILED, RAN, SKIPPED, Outcome
from pipeline.observing import Printed

STAGES = ["prepare_data", "pretrain@semmae-0", "pretrain@mae-0", "finetune@class-semmae-0", "compare"]
METER = "pretraining semmae-0: 150/600 steps, 12 s left, 33 steps/s"


def make(width=80, height=24):
    console = Console(width=width, height=height, file=io.StringIO())
    walk = SimpleNamespace(stages=STAGES, cancelled=threading.Event())
    return Display(walk, console), walk


def above(view):
    """The lines that stay on the terminal."""
    return view.console.file.getvalue().splitlines()


def rows(view):
    """The lines that are drawn again and again."""
    with view.console.capture() as captured:
        view.console.print(view)
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.fixture
def now(monkeypatch):
    """A clock that the test sets."""
    clock = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    return clock


@pytest.mark.parametrize("width", [60, 80, 200])
def test_display__a_stage_waits_runs_and_scrolls_away(now, width):
    view, _ = make(width)
    view.waiting("pretrain@mae-0")
    view.waiting("pretrain@semmae-0")
    view.started("pretrain@semmae-0", "gpu 4")
    now.seconds += 67
    first, second, totals = rows(view)
    assert first.split()[:4] == ["pretrain@semmae-0", "running", "gpu", "4"] and "1:07" in first
    assert second.split()[:2] == ["pretrain@mae-0", "waiting"]
    assert totals == "5 stages in 1:07: 1 running, 1 waiting, 3 to come"
    view.line("pretrain@semmae-0", METER)
    assert "25%" in rows(view)[0] and (METER in rows(view)[0]) == (width == 200)
    view.ended(Outcome("pretrain@semmae-0", RAN, 83.0, "gpu 4"))
    assert above(view) == ["pretrain@semmae-0: ran in 1:23 on gpu 4"]
    assert [line.split()[0] for line in rows(view)[:-1]] == ["pretrain@mae-0"]
    assert rows(view)[-1] == "5 stages in 1:07: 1 ran, 1 waiting, 3 to come"


@pytest.mark.parametrize("width", [20, 60, 80, 99, 100, 200])
def test_display__no_row_is_wider_than_the_terminal(now, width):
    view, _ = make(width)
    for stage in STAGES:
        view.waiting(stage)
        view.started(stage, "cpu 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15")
        view.line(stage, f"{METER}, {'long ' * 100}")
    drawn = rows(view)
    assert len(drawn) == len(STAGES) + 1 and max(map(len, drawn)) <= width


def test_display__rows_beyond_the_height_are_counted_and_those_that_run_come_first(now):
    view, _ = make(height=display.SPARE_LINES + 2)
    for stage in STAGES:
        view.waiting(stage)
    view.started("compare", "cpu 0")
    drawn = rows(view)
    assert [line.split()[0] for line in drawn[:-1]] == ["compare", "prepare_data"]
    assert drawn[-1].endswith("1 running, 4 waiting (3 not shown)")


def test_display__what_is_silent_says_for_how_long(now):
    view, _ = make(width=200)
    view.waiting("compare")
    view.started("compare", "cpu 0")
    view.line("compare", "draws figures")
    now.seconds += display.SILENT_SECONDS
    assert "draws figures" in rows(view)[0]
    now.seconds += 1
    assert "no line for 0:31" in rows(view)[0]
    view.line("compare", "goes on")
    assert "goes on" in rows(view)[0]


def test_display__says_why_a_stage_waits(now):
    view, _ = make(width=200)
    view.waiting("compare")
    assert "for a slot" in rows(view)[0]
    view.line("compare", "waits: another walk runs this very job")
    assert "waits: another walk runs this very job" in rows(view)[0]


def test_display__warnings_failures_and_what_did_not_start_stay_on_the_terminal(now):
    view, walk = make(60)
    view.waiting("prepare_data")
    view.started("prepare_data", "cpu 0")
    warning = f"warning: 3 images of [bold]odd[/bold] kinds are left out: {'a' * 60}"
    view.line("prepare_data", warning)
    view.line("prepare_data", "no warning")
    view.ended(Outcome("prepare_data", FAILED, 3.0, "cpu 0"))
    walk.cancelled.set()
    view.ended(Outcome("compare", SKIPPED))
    view.ended(Outcome("pretrain@mae-0", CANCELLED))
    assert above(view) == [
        f"[prepare_data] {warning}",
        "prepare_data: failed in 0:03 on cpu 0",
        "compare: skipped",
        "pretrain@mae-0: cancelled",
    ]
    assert rows(view) == ["cancelled, stages save and end: 5 stages in 0:00: 1 failed,…"]


def test_shown__elsewhere_than_on_a_terminal_lines_are_printed(capsys):
    with shown(SimpleNamespace(stages=STAGES)) as observer:
        assert type(observer) is Printed
        observer.line("compare", "draws figures")
    assert capsys.readouterr().out == "[compare] draws figures\n"


def test_shown__on_a_terminal_the_rows_are_gone_and_the_cursor_is_back_after_an_interrupt(monkeypatch):
    console = Console(width=80, height=24, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    monkeypatch.setattr(display, "Console", lambda **_: console)
    monkeypatch.setenv("TERM", "xterm")
    walk = SimpleNamespace(stages=STAGES, cancelled=threading.Event())
    with pytest.raises(KeyboardInterrupt), shown(walk) as observer:
        assert type(observer) is Display
        observer.waiting("compare")
        raise KeyboardInterrupt
    text = console.file.getvalue()
    assert text.index("\x1b[?25l") < text.rindex("\x1b[?25h")
    assert text.rindex("compare") < text.rindex("\x1b[2K"), "the last rows are erased"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (7.9, "0:07"), (754, "12:34"), (3723, "1:02:03")])
def test_clock__is_read_as_one(seconds, text):
    assert clock(seconds) == text
