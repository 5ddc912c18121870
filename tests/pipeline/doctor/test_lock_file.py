import pytest

from pipeline.doctor import lock_file
from pipeline.doctor.checks import examine
from tests.pipeline.doctor.conftest import (
    DVC_LOCK,
    RWLOCK,
    WALK,
    commit,
    dvc,
    files,
    mend,
    write_record,
)


@pytest.mark.parametrize("is_committed", [False, True])
def test_damaged_dvc_lock__is_moved_aside_and_dvc_restores_the_rest(tree, is_committed):
    lock = tree / "dvc.lock"
    whole = lock.read_bytes()
    cut = whole[: whole.index(b"outs:") + 2]
    if is_committed:
        commit(tree, "with dvc.lock")
    lock.write_bytes(cut)
    (line,) = mend(["damaged"])
    aside = list((tree / ".semmae").glob("dvc.lock.*"))
    assert [path.read_bytes() for path in aside] == [cut]
    assert str(aside[0]) in line and "`dvc repro`" in line
    assert lock.is_file() == is_committed
    assert "Running stage" not in dvc(tree, "repro")
    assert lock.read_bytes() == whole


def test_damaged_dvc_lock__whatever_dvc_refuses_is_found(tree):
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    lock = tree / "dvc.lock"
    whole, refused = lock.read_bytes(), 0
    with Repo() as repo:
        for end in range(1, len(whole), 3):
            lock.write_bytes(whole[:end])
            try:
                Lockfile(repo, str(lock)).load()
            except DvcException:
                refused += 1
                assert list(lock_file.damaged_dvc_lock(tree, repair=False)), whole[:end]
    assert refused > 20


@pytest.mark.parametrize("code", [WALK, RWLOCK, DVC_LOCK])
def test_damaged_dvc_lock__while_somebody_is_at_work_nothing_is_touched(tree, start, code):
    (tree / "dvc.lock").write_text("schema: '2.0'\nstages:\n  mak")
    write_record(tree, "KILLED")
    start(code)
    before = files(tree)
    assert examine(repair=True) == []
    assert files(tree) == before
