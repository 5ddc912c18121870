from pipeline.doctor.checks import examine
from pipeline.tracking.keys import REPLAY_STAGE
from tests.pipeline.doctor.conftest import (
    lines,
    mend,
    statuses,
    write_record,
)


def test_unreplayed_records__of_a_whole_state_make_a_finished_run_and_those_of_a_broken_walk_a_killed_one(tree):
    write_record(tree, "FINISHED")
    assert "replayed" in mend(["make@big"])[0]
    assert statuses() == [("big make", "FINISHED"), ("pipeline", "FINISHED")]
    (tree / "source.txt").write_text("changed")
    write_record(tree, "KILLED", "other")
    write_record(tree, "FINISHED")
    mend(["make@big", "other"])
    assert statuses()[2:] == [("other", "KILLED"), ("pipeline", "FINISHED"), ("pipeline", "KILLED")]


def test_unreplayed_records__what_dvc_did_not_record_and_the_replay_itself_are_no_findings(tree):
    write_record(tree, "FINISHED", "never_recorded")
    write_record(tree, "FINISHED", REPLAY_STAGE)
    assert examine(repair=False) == []


def test_unreplayed_records__stay_while_tracking_fails(tree, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    write_record(tree, "KILLED")
    found = lines(repair=True)
    assert "could not be examined" in found[0] and "not replayed: `semmae track`" in found[1]
    assert (tree / ".semmae" / "records" / "make@big.json").is_file()
