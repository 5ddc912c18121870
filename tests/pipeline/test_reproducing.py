"""What `pipeline.reproducing` does when DVC meets the lock of another DVC, which its own `--wait-for-lock` does not cover."""

import subprocess
import sys

import pytest
from dvc.lock import make_lock

from jobs.dvc_lock import stage_entries
from pipeline import reproducing
from tests.conftest import wait_until
from tests.pipeline.conftest import make_small

STAGES = """
stages:
  makes:
    cmd: mkdir -p out; touch begun; while [ ! -e go ]; do sleep 0.05; done; echo run >> runs.txt; echo made > out/made
    deps: [mine/image.txt]
    outs: [out/made]
"""


@pytest.fixture
def small(surroundings, tmp_path, monkeypatch):
    folder = make_small(tmp_path / "small", STAGES)
    (folder / ".dvc" / "tmp").mkdir()
    monkeypatch.chdir(folder)
    return folder


def guard(folder):
    """The lock under which DVC edits the list of running stages; it waits three seconds for it."""
    return make_lock(str(folder / ".dvc/tmp/rwlock.lock"), tmp_dir=str(folder / ".dvc/tmp"))


@pytest.mark.slow
def test_reproduce__a_stage_that_ran_before_a_lock_was_met_is_not_called_restored(small):
    command = [sys.executable, "-P", reproducing.__file__, "makes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        wait_until((small / "begun").exists)
        with guard(small):
            (small / "go").touch()
            wait_until(lambda: process.stdout.readline().startswith("waits for another DVC: Unable to acquire lock"))
        process.communicate()
    assert process.returncode == reproducing.RAN
    assert (small / "runs.txt").read_text() == "run\n"
    assert "makes" in stage_entries(small / "dvc.lock")


@pytest.mark.slow
def test_reproduce__a_lock_that_stays_is_a_failure_after_some_tries(small):
    code = "from pipeline import reproducing as r; r.ATTEMPTS = 2; r.reproduce('makes', force=False)"
    with guard(small):
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode and "Unable to acquire lock" in answer.stderr
    assert answer.stdout.count("waits for another DVC") == 1
    assert not (small / "begun").exists()
