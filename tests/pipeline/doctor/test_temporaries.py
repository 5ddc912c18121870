import os

import pytest

from pipeline.doctor.checks import examine
from shards.locks import lock
from tests.pipeline.doctor.conftest import (
    WRITE_FILE,
    WRITE_FOLDER,
    files,
    mend,
)


def test_half_written_files__of_dead_processes_go_and_those_of_living_ones_stay(tree, start, killed):
    start(WRITE_FILE), start(WRITE_FOLDER)
    before = files(tree)
    assert examine(repair=True) == []
    killed(WRITE_FILE), killed(WRITE_FOLDER)
    mend(["made/.small.txt.", "pretrain-mae-0/abc/.new."])
    assert files(tree) == before


@pytest.mark.parametrize("section", ["outs", "metrics", "plots"])
def test_half_written_files__are_looked_for_beside_all_that_stages_write(tree, section):
    (tree / "dvc.yaml").write_text(
        f"stages: {{train: {{cmd: 'true', {section}: [{{curves/loss.json: {{cache: false}}}}]}}}}\n"
    )
    (tree / "curves").mkdir()
    (tree / "curves" / ".loss.json.999999999.tmp").touch()
    mend(["curves/.loss.json."])


def test_half_written_files__a_living_process_of_the_same_number_is_not_the_writer(tree):
    path = tree / "made" / f".big.txt.{os.getpid()}.tmp"
    path.touch()
    os.utime(path, (0, 0))
    mend([".big.txt."])


def test_half_written_files__where_a_job_is_at_work_may_be_those_of_another_machine(tree):
    folder = tree / ".semmae" / "shards" / "job" / "abc"
    with lock(folder, "job"):
        (folder / ".key.999999999.tmp").mkdir()
        assert examine(repair=True) == []
    mend([".key.999999999.tmp"])
