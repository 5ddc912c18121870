import os
import signal
import time

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
