"""What becomes of a stage when DVC meets the lock of another DVC; test_execution.py has a real other one."""

import pytest
from dvc.lock import LockError
from dvc.repo import Repo

from pipeline import reproducing
from pipeline.reproducing import RAN, reproduce
from tests.pipeline.conftest import make_small

STAGES = """
stages:
  makes:
    cmd: mkdir -p out; echo run >> runs.txt; echo made > out/made
    deps: [mine/image.txt]
    outs: [out/made]
"""


@pytest.fixture
def small(surroundings, tmp_path, monkeypatch):
    monkeypatch.setattr(reproducing, "WAIT_SECONDS", (0.0, 0.0))
    folder = make_small(tmp_path / "small", STAGES)
    monkeypatch.chdir(folder)
    return folder


def test_reproduce__a_stage_that_ran_before_a_lock_was_met_counts_as_run(small, monkeypatch):
    real, tries = Repo.reproduce, []

    def meet_a_lock_once(*words, **options):
        result = real(*words, **options)
        tries.append(result)
        if len(tries) == 1:
            raise LockError("busy")
        return result

    monkeypatch.setattr(Repo, "reproduce", meet_a_lock_once)
    assert reproduce("makes", force=False) == RAN
    assert len(tries) == 2 and (small / "runs.txt").read_text() == "run\n"


def test_reproduce__a_lock_that_stays_is_a_failure_after_some_tries(small, monkeypatch, capsys):
    def meet_a_lock(*_, **__):
        raise RuntimeError from LockError("held by 4711")

    monkeypatch.setattr(Repo, "reproduce", meet_a_lock)
    monkeypatch.setattr(reproducing, "ATTEMPTS", 3)
    with pytest.raises(RuntimeError):
        reproduce("makes", force=False)
    assert capsys.readouterr().out.splitlines() == ["waits for another DVC: held by 4711"] * 2
