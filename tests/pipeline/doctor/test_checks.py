"""Leftovers of processes that were killed with -9; beside each, the same of a living process, which stays."""

from typer.testing import CliRunner

from jobs.notes import write_note
from pipeline.cli_runs import app
from pipeline.doctor.apart import apart
from pipeline.doctor.checks import examine
from pipeline.experiments import hold
from pipeline.tracking.client import EXPERIMENT, client
from tests.pipeline.doctor.conftest import (
    WRITE_FILE,
    commit,
    dvc,
    files,
    git,
    mend,
    write_record,
)


def test_examine__a_healthy_tree_has_no_finding_and_looking_changes_nothing(tree):
    before = files(tree)
    assert examine(repair=False) == []
    assert examine(repair=True) == []
    assert files(tree) == before


def test_command__ends_with_1_until_what_it_finds_is_mended(tree, killed):
    killed(WRITE_FILE)
    found, mended, again = (CliRunner().invoke(app, ["doctor", *words]) for words in ([], ["--repair"], []))
    assert [result.exit_code for result in (found, mended, again)] == [1, 0, 0]
    assert "repair removes it\n1 findings; `semmae doctor --repair` mends them\n" in found.output
    assert "; removed\n" in mended.output
    assert again.output == "all is well\n"


def test_examine__a_check_that_fails_is_a_line_and_keeps_no_other_from_running(tree, killed):
    killed(WRITE_FILE)
    (tree / ".semmae" / "records").mkdir(parents=True)
    write_note(tree / ".semmae" / "records" / "make.json", {})
    found = examine(repair=True)
    assert found[0] == "unreplayed records: could not be examined: 'status'" and len(found) == 2
    assert not list((tree / "made").glob(".*.tmp"))


def test_examine__an_experiment_is_examined_like_the_main_tree(tree, killed):
    folder = tree / ".semmae" / "worktrees" / "longer"
    commit(tree, "with dvc.lock")
    git(tree, "worktree", "add", "--detach", "-q", str(folder))
    (folder / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {tree / '.dvc' / 'cache'}\n")
    dvc(folder, "checkout", "-q")
    write_record(folder, "FINISHED")
    with hold(folder):
        assert examine(repair=True) == []
    mend([f"{folder}: executions"])
    assert apart(experiments_of_runs) == {"longer"}


def experiments_of_runs():
    with client() as mlflow_client:
        experiment = mlflow_client.get_experiment_by_name(EXPERIMENT).experiment_id
        return {run.data.tags["dvc_experiment"] for run in mlflow_client.search_runs([experiment])}
