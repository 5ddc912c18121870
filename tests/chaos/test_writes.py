"""A writer that is killed with -9 at any of its write points, or finds the disk full there, leaves the old or the new."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from pipeline.doctor.temporaries import TEMPORARY
from tests.chaos.artefacts import ARTEFACTS
from tests.chaos.conftest import SILENT, chosen

pytestmark = pytest.mark.family

WORDS = {"old": "old state kept", "new": "new state whole", "absent": "absent: made again", "refused": "refused, named",
         "recomputed": "made again"}  # fmt: skip
FAULTS = {"kill": "kill -9 at a write", "full": "disk full at a write"}


@pytest.fixture(scope="module")
def states(zygote, tmp_path_factory):
    """Name -> (folder with its old state, what is read of the old and of the new one, write points of the new)."""
    found = {}
    for name in ARTEFACTS:
        folder = tmp_path_factory.mktemp("old")
        assert zygote(folder, "tests.chaos.artefacts:write", name, "old")["code"] == 0
        other = shutil.copytree(folder, tmp_path_factory.mktemp("new"), dirs_exist_ok=True)
        old, new = look(zygote, other, name)
        counted = zygote(folder_of(folder, tmp_path_factory), "tests.chaos.artefacts:write", name, "new")
        assert counted["code"] == 0 and old[0] == new[0] == "read" and old != new, (name, old, new)
        found[name] = folder, old, new, counted["points"]
    return found


def folder_of(folder, factory):
    return shutil.copytree(folder, factory.mktemp("counted"), dirs_exist_ok=True)


def look(zygote, folder, name):
    answer = zygote(folder, "tests.chaos.artefacts:look", name)
    assert answer["code"] == 0, answer["output"]
    return json.loads(answer["output"].splitlines()[-1])


def leftovers(folder):
    return [path for path in Path(folder).rglob("*") if TEMPORARY.fullmatch(path.name)]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ARTEFACTS)
def test_write__that_is_interrupted_leaves_the_old_or_the_new(zygote, states, tmp_path, tries, tell, name, fault):
    before, old, new, points = states[name]
    assert points >= 4, "a file is opened, written, flushed and renamed"
    for at in chosen(points, tries, f"{name} {fault}"):
        folder = shutil.copytree(before, tmp_path / str(at))
        ended = zygote(folder, "tests.chaos.artefacts:write", name, "new", fault=fault, at=at)
        if fault == "kill":
            assert ended["code"] == -9, ended["output"]
        else:
            # What is only cleaned up needs no space.
            assert ended["code"] == 0 or "No space left on device" in ended["output"], ended["output"]
            assert not leftovers(folder), (at, leftovers(folder))
        found, after = look(zygote, folder, name)
        outcome = "old" if found == old else "new" if found == new else found[0]
        tell(FAULTS[fault], name, WORDS.get(outcome, SILENT))
        assert after == new, (at, found)


@pytest.mark.parametrize("fault", FAULTS)
def test_write__of_weights_that_the_kernel_ends_leaves_the_old(zygote, states, tmp_path, tries, tell, fault):
    """safetensors writes by itself, past what is wrapped here: the kernel ends the write at a size."""
    before, old, new, _ = states["pretrained weights"]
    for at in chosen(9000, tries or 100, f"size {fault}"):
        folder = shutil.copytree(before, tmp_path / str(at))
        size = 5000 + at
        ended = zygote(
            folder, "tests.chaos.artefacts:write", "pretrained weights", "new", fault=f"{fault} at size", at=size
        )
        assert ended["code"] == (-signal.SIGXFSZ if fault == "kill" else 1), ended["output"]
        assert fault == "kill" or "model.safetensors: not written" in ended["output"], ended["output"]
        found, after = look(zygote, folder, "pretrained weights")
        tell(FAULTS[fault], "pretrained weights", WORDS["old"] if found == old else SILENT)
        assert after == new


def test_a_write__that_is_not_whole_is_seen(zygote, tmp_path):
    """The harness itself: a file that is written in place is found cut off."""
    for fault, code in (("kill", -9), ("full", 1)):
        folder = tmp_path / fault
        folder.mkdir()
        assert zygote(folder, "tests.chaos.test_writes:in_place", fault=fault, at=2)["code"] == code
        assert (folder / "a.txt").read_text() == "01234"


def in_place():
    Path("a.txt").write_text("0123456789")
