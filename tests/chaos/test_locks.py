"""Files that keep processes apart: damaged while nobody or somebody holds them, and a `dvc repro` of the user's beside a walk."""

import json
import random
import shutil
import subprocess
import sys

import pytest
from dvc.repo import Repo

from jobs.state import state_folder
from pipeline.doctor.checks import examine
from pipeline.slots import CPU, Needs, occupy
from shards.files import md5_of
from tests.chaos.artefacts import KINDS, harm
from tests.chaos.conftest import OUTS, SILENT
from tests.conftest import wait_until
from tests.pipeline.conftest import digest_by_path, held_slots, make_small

pytestmark = pytest.mark.family

ONE = Needs(CPU, 1)


@pytest.mark.parametrize("kind", [*KINDS, "filled"])
def test_slots__whose_files_are_damaged_still_keep_two_apart(small, tries, tell, kind):
    """The lock is the kernel's, on the file as it is found: what is in it means nothing."""
    folder = state_folder() / "slots"
    for number in range(tries or 20):
        with occupy(ONE):
            names = held_slots()
            assert len(names) == 1
        for path in sorted(folder.iterdir()):
            path.write_bytes(random.Random(f"{kind} {number} {path.name}").randbytes(50))
            if kind != "filled":
                harm(path, kind, random.Random(f"{kind} {number}"))
        with occupy(ONE) as held:
            same = held_slots() == names and [f"cpu-{name}" for name in held] == names
        tell(KINDS.get(kind, "filled with noise"), "files of slots", "the slots are what they were" if same else SILENT)


def test_slots__whose_file_is_deleted_while_it_is_held_are_refused_to_nobody_for_ever(small, tell):
    """Who deletes a file that is held takes its meaning away; a slot more is a slower machine, and no other result."""
    with occupy(ONE) as held:
        (state_folder() / "slots" / f"cpu-{held[0]}").unlink()
        with occupy(ONE) as other:
            assert other == held
    assert held_slots() == []
    tell("deleted while it is held", "files of slots", "two stages share a core")


@pytest.mark.parametrize("kind", KINDS)
def test_rwlock__that_is_damaged_is_mended_or_means_what_it_meant(small, tries, tell, kind):
    """DVC's list of the paths that running stages use, here of one that was killed."""
    whole = {out: md5_of(out) for out in OUTS}
    dead = subprocess.Popen(["true"])
    dead.wait()
    path = small / ".dvc" / "tmp" / "rwlock"
    entry = {"pid": dead.pid, "cmd": "dvc repro"}
    for number in range((tries or 20) * 4):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"read": {}, "write": {str(small / "out/made"): entry}}))
        harm(path, kind, random.Random(f"{kind} {number}"))
        found = examine(repair=True)
        shutil.rmtree("out")
        with Repo() as repo:
            repo.reproduce()
        same = {out: md5_of(out) for out in OUTS} == whole and examine(repair=False) == []
        tell(KINDS[kind], "DVC's rwlock", ("named, mended" if found else "read as it was") if same else SILENT)


BESIDE = """
import pathlib, sys, time
pathlib.Path(sys.argv[1]).touch()
while not pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.02)
"""
WAITING = """
stages:
  make:
    cmd: >-
      python -c "$BESIDE" started go && mkdir -p out && cp mine/image.txt out/made
    deps: [mine/image.txt]
    outs: [out/made]
  last:
    cmd: cat out/made out/made > out/last
    deps: [out/made]
    outs: [out/last]
"""


@pytest.mark.slow
def test_dvc_repro__beside_a_walk_leaves_what_one_of_them_leaves(tmp_path, monkeypatch, surroundings, tell):
    """The user's own DVC meets a stage of a walk in its middle: it is refused, and nothing is made twice or half."""
    folder = make_small(tmp_path / "small", WAITING)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BESIDE", BESIDE)
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as walk:
        wait_until((folder / "started").exists, seconds=90)
        beside = subprocess.run([sys.executable, "-m", "dvc", "repro"], capture_output=True, text=True, check=False)
        (folder / "go").touch()
        said, _ = walk.communicate()
    assert beside.returncode and "is busy, it is being blocked by" in beside.stderr, beside.stdout + beside.stderr
    assert walk.returncode == 0, said
    recorded = digest_by_path(folder)
    same = (folder / "out/last").read_text() == "an image" * 2 and len(recorded) == 2
    same = same and all(md5_of(path) == digest for path, digest in recorded.items()) and examine(repair=False) == []
    tell("`dvc repro` beside `semmae run`", "the repository", "refused, named; the walk ends whole" if same else SILENT)
