import os

import pytest

from jobs.record import NOTES
from jobs.recorded import check_recorded
from shards.files import md5_of, write_json

PATH = "metrics/probe/mae-0.json"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder with a metrics file and a dvc.lock that has it."""
    monkeypatch.chdir(tmp_path)
    write_json(PATH, {"accuracy": 0.5})
    write_json("dvc.yaml", {"stages": {"probe@mae-0": {}}})
    record(md5_of(PATH))
    return tmp_path


def record(digest):
    with open("dvc.lock", "w") as file:
        file.write(
            f"schema: '2.0'\nstages:\n  probe@mae-0:\n    cmd: x\n    outs:\n    - {{path: {PATH}, md5: {digest}}}\n"
        )


def rot():
    """Change a digit under the time and size that DVC goes by."""
    before = os.stat(PATH)
    with open(PATH, "r+") as file:
        text = file.read()
        file.seek(0)
        file.write(text.replace("0.5", "0.7"))
    os.utime(PATH, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(PATH).st_size == before.st_size


def test_check_recorded__what_dvc_lock_has_passes_and_what_became_of_it_does_not(tree):
    check_recorded("metrics", "history")
    rot()
    for place in ("metrics", PATH):
        with pytest.raises(
            ValueError, match=r"mae-0\.json: damaged, or changed by hand: .*delete metrics/probe/mae-0\.json"
        ):
            check_recorded(place)


def test_check_recorded__a_stage_run_by_hand_since_has_noted_its_own(tree):
    write_json(PATH, {"accuracy": 0.5, "knn": 0.25})
    with pytest.raises(ValueError, match="damaged, or changed by hand"):
        check_recorded(PATH)
    (NOTES / PATH).parent.mkdir(parents=True)
    (NOTES / PATH).write_text(f"{md5_of(PATH)}\n")
    check_recorded(PATH)
    rot()
    with pytest.raises(ValueError, match="damaged, or changed by hand"):
        check_recorded(PATH)


def test_check_recorded__what_dvc_restored_since_is_that_of_dvc_lock(tree):
    (NOTES / PATH).parent.mkdir(parents=True)
    (NOTES / PATH).write_text("0" * 32)
    check_recorded(PATH)


def test_check_recorded__what_nothing_is_known_of_passes_also_from_elsewhere(tree, monkeypatch):
    write_json("metrics/other.json", {})
    monkeypatch.chdir("/")
    check_recorded("metrics", root=tree)
    (tree / "dvc.lock").unlink()
    write_json(tree / PATH, {"accuracy": 1})
    check_recorded("metrics", root=tree)
