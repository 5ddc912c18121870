"""Locks of DVCs that were killed with -9; beside each, the same of a living one, which stays."""

import os
import signal
import time

import pytest

from jobs.notes import write_note
from jobs.supervision import identity
from pipeline.doctor import dvc_locks
from pipeline.doctor.checks import examine
from shards.files import read_json, write_json
from tests.pipeline.doctor.conftest import (
    DVC_LOCK,
    LINK,
    RWLOCK,
    dvc,
    mend,
    write_record,
)


def test_dead_dvc_locks__entries_of_dead_processes_go_and_those_of_living_ones_stay(tree, start, killed):
    dead, living = killed(RWLOCK.replace("made/big", "other")), start(RWLOCK)
    mended = mend(["source.txt: -c, process", "other.txt: -c, process"])
    assert all(str(dead.pid) in line for line in mended)
    left = read_json(tree / ".dvc" / "tmp" / "rwlock")
    assert [info["pid"] for info in next(iter(left["read"].values()))] == [living.pid]
    assert [info["pid"] for info in left["write"].values()] == [living.pid]


@pytest.mark.parametrize(("command", "age"), [("dvc repro -s other", 0), ("dvc", 1e6)])
def test_dead_dvc_locks__a_process_that_only_has_the_number_is_not_the_holder(tree, start, command, age):
    other = start("")
    path = tree / ".dvc" / "tmp" / "rwlock"
    write_json(path, {"read": {}, "write": {str(tree / "made"): {"pid": other.pid, "cmd": command}}})
    os.utime(path, (time.time() - age,) * 2)
    mend([f"process {other.pid}"])
    dvc(tree, "repro", "--force")


def test_dead_dvc_locks__rwlock_that_was_cut_off_is_made_anew(tree):
    path = tree / ".dvc" / "tmp" / "rwlock"
    path.write_text('{"read": {"a": [{"pid"')
    mend(["cut off"])
    assert read_json(path) == {"read": {}, "write": {}}


def test_dead_dvc_locks__an_unheld_lock_file_means_nothing(tree, killed):
    killed(DVC_LOCK)
    assert (tree / ".dvc" / "tmp" / "lock").is_file()
    assert examine(repair=False) == []


@pytest.mark.slow
def test_dead_dvc_locks__a_hard_link_of_a_living_dvc_stays_and_that_of_a_dead_one_goes(tree, start):
    (tree / ".dvc" / "config.local").write_text("[core]\n    hardlink_lock = true\n")
    for name in dvc_locks.LOCKS:
        (tree / ".dvc" / "tmp" / name).unlink()
    server = start("import os; os.setsid()")
    write_note(
        tree / ".semmae" / "services" / "services.json", {"mlflow": {"process": identity(server.pid), "url": ""}}
    )
    holder = start(LINK)
    write_record(tree, "KILLED")
    assert examine(repair=True) == []
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    mended = mend(["a lock whose DVC is gone", "executions that MLflow does not know"])
    assert "tmp/lock:" in mended[0]
    dvc(tree, "status")
