import json
from types import SimpleNamespace

import pytest

from config.params import load_runtime
from jobs import live, record
from jobs.live import Lines, rows_of
from tests.conftest import ROOT

HISTORY = [{"step": step, "loss": 1 / step} for step in (2, 4, 6)]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """No followers."""
    monkeypatch.setattr(Lines, "_keep_followed", lambda self: None)


def test_lines__who_resumes_goes_on_in_the_same_file_and_repeats_no_step(tmp_path):
    path = tmp_path / "job.jsonl"
    first = Lines(path, "job")
    first.extend(HISTORY[:1])
    first.extend(HISTORY[:2])
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"time": 1.0, "ro')  # a kill in the midst of a line
    second = Lines(path, "job")
    second.extend(HISTORY[:1])
    second.extend(HISTORY)
    second.end("FINISHED")
    assert [row for _, row in rows_of(path)] == HISTORY
    kinds = [next(name for name in ("process", "row", "end") if name in line) for _, line in live.lines_of(path)]
    assert kinds == ["process", "row", "row", "process", "row", "end"]


def test_lines_of__reads_on_from_an_offset_and_leaves_out_damaged_lines_and_half_a_line_for_later(tmp_path):
    path = tmp_path / "job.jsonl"
    rows = [{"time": 1.0, "row": row} for row in HISTORY]
    first, second, third = (json.dumps(row).encode() + b"\n" for row in rows)
    damaged = b"\n[]\n{}\n\xff\n" + first.replace(b"step", b"stop") + second.replace(b"1.0", b'"1"')
    path.write_bytes(first + damaged + second + third[:9])
    (offset, _), (end, _) = live.lines_of(path)
    assert [line for _, line in live.lines_of(path, offset)] == rows[1:2]
    with open(path, "ab") as file:
        file.write(third[9:])
    assert [line for _, line in live.lines_of(path, end)] == rows[2:]


def test_lines__a_disk_that_refuses_costs_a_warning_and_the_rows_come_later(tmp_path, capsys):
    (tmp_path / "live").write_text("no folder")
    lines = Lines(tmp_path / "live" / "job.jsonl", "pretrain mae-0")
    lines.extend(HISTORY[:2])
    assert capsys.readouterr().out.count("warning: pretrain mae-0: MLflow") == 1
    (tmp_path / "live").unlink()
    lines.extend(HISTORY)
    assert [row for _, row in rows_of(lines.path)] == HISTORY


def test_follow__only_the_first_process_of_a_stage_under_dvc_and_only_where_it_is_switched_on(tmp_path, monkeypatch):
    def follow(rank=0, **changes):
        folder = tmp_path / "scratch" / "pretrain-mae-0" / "abc"
        scratch = SimpleNamespace(folder=folder, processes=SimpleNamespace(rank=rank))
        return live.follow(scratch, load_runtime(ROOT / "runtime.yaml").model_copy(update=changes), "pretrain mae-0")

    monkeypatch.setattr(live, "state_folder", lambda: tmp_path)
    monkeypatch.setattr(record, "_facts", {})
    monkeypatch.delenv(live.SWITCH)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert follow() is None
    monkeypatch.setenv("DVC_STAGE", "dvc.yaml:pretrain@mae-0")
    assert follow(rank=1) is None and follow(live=False) is None
    lines = follow()
    assert record.noted() == {"live": "pretrain-mae-0.abc"} and lines.path == live.line_file("pretrain-mae-0.abc")
    record.end_trainings("KILLED")
    record.end_trainings("FINISHED")
    begin, end = (json.loads(line) for line in lines.path.read_text().split("\n") if line)
    assert (begin["stage"], end["end"]) == ("pretrain@mae-0", "KILLED")
    monkeypatch.setenv(live.SWITCH, "0")
    assert follow() is None
