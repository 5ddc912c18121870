import os
import shutil
import signal
import time

from jobs import live
from jobs.notes import write_note
from pipeline.doctor.checks import examine
from tests.pipeline.doctor.conftest import (
    SCRATCH,
    mend,
)


def age_scratch(tree, days):
    folder = tree / ".semmae" / "scratch" / "pretrain-mae-0" / "abc"
    os.utime(folder, (time.time() - 86400 * days,) * 2)
    return folder


def test_old_scratch__goes_when_nobody_used_it_for_a_week(tree, killed):
    killed(SCRATCH)
    age_scratch(tree, 6.9)
    assert examine(repair=True) == []
    folder = age_scratch(tree, 7.1)
    mend(["resume state"])
    assert not folder.parent.exists()


def test_old_scratch__stays_while_a_job_holds_it_or_an_experiment_may_go_on(tree, start, killed):
    holder = start(SCRATCH)
    folder = age_scratch(tree, 30)
    assert examine(repair=True) == []
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    (tree / ".semmae" / "worktrees" / "slow").mkdir(parents=True)
    (tree / ".semmae" / "worktrees" / "slow" / ".git").touch()
    note = tree / ".semmae" / "experiments" / "slow.json"
    write_note(note, {"started": time.time() - 86400 * 40})
    assert examine(repair=True) == []
    write_note(note, {"started": time.time() - 86400 * 20})
    assert len(examine(repair=False)) == 1
    write_note(note, {"started": time.time() - 86400 * 40, "finished": time.time()})
    assert len(examine(repair=True)) == 1
    assert not folder.exists()


def test_stale_lines__go_when_nobody_resumes_the_training_and_no_replay_waits_for_it(tree, killed, monkeypatch):
    monkeypatch.setattr(live.Lines, "_keep_followed", lambda self: None)
    monkeypatch.setattr(live, "identity", lambda pid: "1:0.00")
    monkeypatch.setenv("DVC_STAGE", "dvc.yaml:make@big")
    path = live.line_file("pretrain-mae-0.abc")
    live.Lines(path, "job").end("KILLED")
    assert examine(repair=True) == [], "its stage may be about to write its record"
    os.utime(path, (time.time() - 7200,) * 2)
    killed(SCRATCH)
    assert examine(repair=True) == [], "it may be resumed"
    shutil.rmtree(tree / ".semmae" / "scratch")
    mend(["rows of a training"])
    assert not path.exists()
