"""Faults of what lies around the stages: dvc.lock, and two pipelines at once."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from dvc.repo import Repo

from pipeline.doctor.checks import examine
from shards.files import md5_of
from shards.locks import lock
from tests.chaos.artefacts import KINDS, harm
from tests.chaos.conftest import OUTS, SILENT
from tests.chaos.test_stages import Case
from tests.chaos.zygote import error_lines
from tests.pipeline.conftest import digest_by_path

pytestmark = pytest.mark.family


@pytest.mark.parametrize("kind", KINDS)
def test_dvc_lock__that_is_damaged_is_mended_and_the_outs_stay_what_they_are(small, tries, tell, kind):
    whole = {out: md5_of(out) for out in OUTS}
    first = (small / "dvc.lock").read_bytes()
    for number in range((tries or 25) * 4):
        harm(small / "dvc.lock", kind, random.Random(f"{kind} {number}"))
        found = examine(repair=True)
        with Repo() as repo:
            repo.reproduce()
        same = {out: md5_of(out) for out in OUTS} == whole and md5_of("out/last") == digest_by_path(small)["out/last"]
        told = "named, moved aside, restored" if found else "restored"
        tell(KINDS[kind], "dvc.lock", told if same else SILENT)
        (small / "dvc.lock").write_bytes(first)


def test_dvc_lock__killed_while_dvc_writes_it_is_mended(small, zygote, tries, tell):
    """DVC writes it in place: the one file here that can be cut off."""
    whole = {out: md5_of(out) for out in OUTS}
    shutil.rmtree(small / "out")
    (small / "dvc.lock").unlink()
    counted = shutil.copytree(small, small.with_name("counted"), symlinks=True)
    points = zygote(counted, "tests.chaos.test_pipelines:reproduce")["points"]
    assert points > 20
    draw = random.Random("dvc.lock")
    for number in range(6 if tries == 1 else 3 * tries or points):
        folder = shutil.copytree(small, small.with_name(f"killed-{number}"), symlinks=True)
        ended = zygote(folder, "tests.chaos.test_pipelines:reproduce", fault="kill", at=draw.randint(1, points))
        assert ended["code"] == -signal.SIGKILL, ended["output"]
        with contextlib.chdir(folder):
            found = examine(repair=True)
            with Repo() as repo:
                repo.reproduce()
            same = {out: md5_of(out) for out in OUTS} == whole and digest_by_path(folder) == {
                **digest_by_path(folder),
                **whole,
            }
        told = "mended by the doctor, restored" if found else "recomputed"
        tell("kill -9 in DVC", "dvc.lock", told if same else SILENT)


def reproduce():
    with Repo() as repo:
        repo.reproduce()


def test_two_walks__in_one_repository_the_second_is_told(small, tell):
    from pipeline.experiments import hold

    whole = {out: md5_of(out) for out in OUTS}
    with hold(small):
        command = [sys.executable, "-c", "from pipeline.cli import main; main()", "run", "--force"]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 1 and second.stderr.startswith("error: a walk in"), second.stdout + second.stderr
    assert len(second.stderr.splitlines()) == 1
    same = {out: md5_of(out) for out in OUTS} == whole
    tell("two `semmae run` at once", "the repository", "the second refused, named" if same else SILENT)


@pytest.mark.slow
def test_two_dvc_repros__at_once_leave_what_one_leaves(small, tell):
    whole = {out: md5_of(out) for out in OUTS}
    shutil.rmtree("out")
    shutil.rmtree(".dvc/cache")
    os.unlink("dvc.lock")
    command = [sys.executable, "-m", "dvc", "repro"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert 0 in [process.returncode for process in both], said
    for process, text in zip(both, said, strict=True):
        assert process.returncode == 0 or "lock" in text or "busy" in text, text
    subprocess.run(command, check=True, capture_output=True)
    same = {out: md5_of(out) for out in OUTS} == whole and examine(repair=False) == []
    tell("two `dvc repro` at once", "the repository", "one done, or both in turn" if same else SILENT)


def test_the_same_job__twice_at_once_the_second_is_told(zygote, recorded, tmp_path, tell):
    one = Case(zygote, recorded, tmp_path / "world", ("pretrain", "semmae", "0"))
    one.save_always()
    assert one.run("kill", 200)["code"] == -signal.SIGKILL
    (folder,) = (one.folder / ".semmae/scratch").glob("*/*/")
    with lock(folder, "test"):
        second = one.run()
    assert second["code"] == 1 and "another process runs this very job" in error_lines(second)[0], second["output"]
    _, is_same = one.ends()
    tell("the same job twice at once", "training checkpoint", "the second refused, named" if is_same else SILENT)


def test_doctor__a_day_that_jumps_by_makes_nothing_old_or_dead(small, monkeypatch, tell):
    with lock(small / ".semmae/scratch/pretrain-mae-0/abc", "pretrain-mae-0"):
        pass
    now = time.time()
    for seconds in (-86400, 86400):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now + seconds)
        assert examine(repair=True) == []
        assert (small / ".semmae/scratch/pretrain-mae-0/abc").is_dir()
        tell(f"clock jumps by {seconds // 86400:+d} day", "resume state before the doctor", "old state kept")
