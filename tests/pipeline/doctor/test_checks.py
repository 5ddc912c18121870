"""Leftovers of processes that were killed with -9; beside each, the same of a living process, which stays."""

import json

from typer.testing import CliRunner

from jobs.notes import write_note
from pipeline.cli_runs import app
from pipeline.doctor.apart import apart
from pipeline.doctor.checks import examine
from pipeline.experiments import hold
from pipeline.tracking.client import EXPERIMENT, client
from tests.pipeline.doctor.conftest import (
    RWLOCK,
    WRITE_FILE,
    commit,
    dvc,
    files,
    git,
    lines,
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
    assert "repair removes it\n1 finding; `semmae doctor --repair` mends them" in found.output
    assert "; removed\n1 finding, all mended\n" in mended.output
    assert again.output.splitlines()[-1] == "all is well" and len(again.output.splitlines()) < 12


def test_command__one_line_a_kind_with_its_count_and_each_on_demand(tree, killed):
    """A killed DVC leaves a lock for every path of its stage."""
    inputs = [f"data/{number}.txt" for number in range(139)]
    killed(RWLOCK.replace('["source.txt"]', repr(inputs)).replace("made/big", "other"))
    short, long = (CliRunner().invoke(app, ["doctor", *words]).output for words in ([], ["--verbose"]))
    (line,) = [line for line in short.splitlines() if "rwlock" in line]
    assert "data/0.txt: -c, process " in line and " and 139 more: a lock whose DVC is gone; repair removes it" in line
    assert all(f"{path}: -c" in long for path in inputs) and short.splitlines()[-1].startswith("140 findings; ")


def test_command__json_has_the_same_keys_whatever_is_found(tree, killed):
    def document(*words):
        return json.loads(CliRunner().invoke(app, ["doctor", "--json", *words]).output)

    names = ["python", "torch", "packages", "git", "disk", "memory", "proxies", "cache"]
    for number, words in ((0, []), (1, ["--repair"])):
        answer = document(*words)
        assert list(answer) == ["environment", "findings", "left"] and list(answer["environment"]) == names
        assert all(list(fact) == ["value", "advice"] for fact in answer["environment"].values())
        assert len(answer["findings"]) == number and answer["left"] == 0
        killed(WRITE_FILE)
    (finding,) = document()["findings"]
    assert list(finding) == ["place", "fault", "remedy", "detail", "check"]
    assert finding["check"] == "half_written_files" and ".small.txt." in finding["place"]


def test_examine__a_check_that_fails_is_a_line_and_keeps_no_other_from_running(tree, killed):
    killed(WRITE_FILE)
    (tree / ".semmae" / "records").mkdir(parents=True)
    write_note(tree / ".semmae" / "records" / "make.json", {})
    found = lines(repair=True)
    assert "unreplayed records: could not be examined: 'status'" in found[0] and len(found) == 2
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
    mend([f"{folder} (make@big): executions"])
    assert apart(experiments_of_runs) == {"longer"}


def experiments_of_runs():
    with client() as mlflow_client:
        experiment = mlflow_client.get_experiment_by_name(EXPERIMENT).experiment_id
        return {run.data.tags["dvc_experiment"] for run in mlflow_client.search_runs([experiment])}
