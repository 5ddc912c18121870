"""Real leftovers of processes that were killed with -9; beside each, the same of a living process, which stays."""

import contextlib
import os
import signal
import sqlite3
import time

import pytest
from typer.testing import CliRunner

from jobs.notes import read_note, write_note
from jobs.supervision import SUPERVISOR, identity
from pipeline.cli_runs import app
from pipeline.doctor import checks as doctor
from pipeline.doctor.checks import examine
from pipeline.experiments import hold
from pipeline.tracking import replay as tracking
from shards.locks import lock
from tests.pipeline.doctor.conftest import (
    DVC_LOCK,
    REPLAY,
    RWLOCK,
    SCRATCH,
    WALK,
    WRITE_FILE,
    WRITE_FOLDER,
    commit,
    dvc,
    files,
    git,
    mend,
    statuses,
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


def test_examine__notes_that_are_damaged_are_removed_and_an_experiments_is_written_again(tree):
    state = tree / ".semmae"
    paths = [
        state / name
        for name in ("records/make.json", "executions/make.json", "replayed.json", "services/services.json")
    ]
    note = state / "experiments" / "slow.json"
    for path in (*paths, note):
        write_note(path, {"value": 1})
        path.write_text(path.read_text().replace("1", "2", 1))
    told = {str(path): "removed" for path in paths} | {str(note): "written again"}
    for repair, words in ((False, "repair "), (True, "")):
        found = [line for line in examine(repair=repair) if ": damaged, or of another version; " in line]
        assert len(found) == 5 and all(words in line for line in found)
    assert {line.partition(": ")[0]: line.partition("; ")[2] for line in found} == told
    assert not any(path.exists() for path in paths) and set(read_note(note)) == {"started"}
    assert examine(repair=True) == []


def test_examine__a_check_that_fails_is_a_line_and_keeps_no_other_from_running(tree, killed):
    killed(WRITE_FILE)
    (tree / ".semmae" / "records").mkdir(parents=True)
    write_note(tree / ".semmae" / "records" / "make.json", {})
    found = examine(repair=True)
    assert found[0] == "unreplayed records: could not be examined: 'status'" and len(found) == 2
    assert not list((tree / "made").glob(".*.tmp"))


def test_examine__a_server_that_does_not_answer_is_a_line(tree, monkeypatch):
    def refuse():
        raise OSError("connection refused")

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(doctor.flow_runs, "client", refuse)
    lines = [line.partition(": ") for line in examine(repair=True)]
    assert [name for name, _, _ in lines] == ["dead flow runs", "leaked slots"]
    assert {told for _, _, told in lines} == {"could not be examined: connection refused"}


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
                assert list(doctor.damaged_dvc_lock(tree, repair=False)), whole[:end]
    assert refused > 20


@pytest.mark.parametrize("code", [WALK, RWLOCK, DVC_LOCK])
def test_damaged_dvc_lock__while_somebody_is_at_work_nothing_is_touched(tree, start, code):
    (tree / "dvc.lock").write_text("schema: '2.0'\nstages:\n  mak")
    write_record(tree, "KILLED")
    start(code)
    before = files(tree)
    assert examine(repair=True) == []
    assert files(tree) == before


def test_unreplayed_records__of_a_whole_state_make_a_finished_run_and_those_of_a_broken_walk_a_killed_one(tree):
    write_record(tree, "FINISHED")
    assert "replayed" in mend(["make@big"])[0]
    assert statuses() == [("make@big", "FINISHED"), ("pipeline", "FINISHED")]
    (tree / "source.txt").write_text("changed")
    write_record(tree, "KILLED", "other")
    write_record(tree, "FINISHED")
    mend(["make@big, other"])
    assert statuses()[2:] == [("other", "KILLED"), ("pipeline", "FINISHED"), ("pipeline", "KILLED")]


def test_unreplayed_records__what_dvc_did_not_record_and_the_replay_itself_are_no_findings(tree):
    write_record(tree, "FINISHED", "never_recorded")
    write_record(tree, "FINISHED", tracking.REPLAY_STAGE)
    assert examine(repair=False) == []


def test_unreplayed_records__stay_while_tracking_fails(tree, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    write_record(tree, "KILLED")
    found = examine(repair=True)
    assert "not replayed: `semmae track`" in found[0] and "could not be examined" in found[1]
    assert (tree / ".semmae" / "records" / "make@big.json").is_file()


def test_half_written_files__of_dead_processes_go_and_those_of_living_ones_stay(tree, start, killed):
    start(WRITE_FILE), start(WRITE_FOLDER)
    before = files(tree)
    assert examine(repair=True) == []
    killed(WRITE_FILE), killed(WRITE_FOLDER)
    mend(["made/.small.txt.", "pretrain-mae-0/abc/.new."])
    assert files(tree) == before


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


def test_half_written_runs__of_dead_replays_go_and_those_of_living_ones_stay(tree, killed):
    killed(REPLAY)
    with tracking.client() as client:
        experiment = client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
        writers = {
            "of the living": f"{os.uname().nodename}/{identity(os.getppid())}",
            "of another machine": "other/1:2.0",
        }
        for name in (*writers, "no replay"):
            client.create_run(experiment, run_name=name, tags={tracking.WRITER_TAG: writers.get(name, "")})
    mend(["run make@big", "run pipeline"])
    assert statuses() == [(name, "RUNNING") for name in ("no replay", "of another machine", "of the living")]


def age_scratch(tree, days):
    folder = tree / ".semmae" / "scratch" / "pretrain-mae-0" / "abc"
    os.utime(folder, (time.time() - 86400 * days,) * 2)
    return folder


def test_old_scratch__goes_when_nobody_used_it_for_a_week(tree, killed):
    killed(SCRATCH)
    age_scratch(tree, 6.9)
    assert examine(repair=True) == []
    folder = age_scratch(tree, 7.1)
    mend(["resume state"])
    assert not folder.parent.exists()


def test_old_scratch__stays_while_a_job_holds_it_or_an_experiment_may_go_on(tree, start, killed):
    holder = start(SCRATCH)
    folder = age_scratch(tree, 30)
    assert examine(repair=True) == []
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    (tree / ".semmae" / "worktrees" / "slow").mkdir(parents=True)
    (tree / ".semmae" / "worktrees" / "slow" / ".git").touch()
    note = tree / ".semmae" / "experiments" / "slow.json"
    write_note(note, {"started": time.time() - 86400 * 40})
    assert examine(repair=True) == []
    write_note(note, {"started": time.time() - 86400 * 20})
    assert len(examine(repair=False)) == 1
    write_note(note, {"started": time.time() - 86400 * 40, "finished": time.time()})
    assert len(examine(repair=True)) == 1
    assert not folder.exists()


def test_dead_services__are_forgotten_and_living_ones_kept(tree, start, monkeypatch):
    living, dead = start(""), start("")
    noted = {"prefect": {"process": identity(living.pid), "url": "http://127.0.0.1:9"}}
    path = tree / ".semmae" / "services" / "services.json"
    write_note(path, {**noted, "worker": {"process": identity(dead.pid), "url": ""}})
    # The server that lives does not answer here: what is asked of it is another test's matter.
    monkeypatch.setattr(doctor, "api_url", lambda: "")
    assert examine(repair=True) == []
    os.kill(dead.pid, signal.SIGKILL)
    dead.wait()
    mend(["worker is gone"])
    assert read_note(path) == noted


def test_abandoned_stages__end_and_those_of_a_living_walk_do_not(tree, start, monkeypatch):
    walk = start("")
    stage = start("", **{SUPERVISOR: identity(walk.pid)})
    followed = start("", **{SUPERVISOR: identity(os.getpid())})
    monkeypatch.setattr(doctor, "ENDING_SECONDS", -1.0)
    assert examine(repair=True) == []
    os.kill(walk.pid, signal.SIGKILL)
    walk.wait()
    mend([f"process {stage.pid} ("])
    assert not identity(stage.pid)
    assert followed.poll() is None


def test_abandoned_stages__one_that_has_time_left_to_end_itself_is_no_finding(tree, start):
    start("", **{SUPERVISOR: "1:0.00"})
    assert examine(repair=True) == []


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
    with tracking.client() as client:
        experiment = client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
        assert {run.data.tags["dvc_experiment"] for run in client.search_runs([experiment])} == {"longer"}


def change(words, *values):
    """Change the tracking database as no writer would; what is indexed stays as it was there."""
    with contextlib.closing(sqlite3.connect(tracking.database())) as found, found:
        assert found.execute(words, values).rowcount, words


def test_damaged_runs__of_the_state_that_lies_here_are_written_again_there(tree):
    written = tracking.replay()
    change("UPDATE tags SET value = 'maks' WHERE key = 'stage' AND run_uuid = ?", written.runs["make@big"])
    (line,) = mend(["not what was written: make@big of pipeline"])
    assert f"`semmae track` in {tree} writes them again" in line
    assert tracking.replay(ask=False).pipeline not in ("", written.pipeline), (
        "what was noted of the last replay is gone too"
    )
    assert examine(repair=False) == []


def test_damaged_runs__of_other_states_and_of_broken_walks_are_removed(tree):
    commit(tree, "with dvc.lock")
    head = git(tree, "rev-parse", "HEAD").strip()
    write_record(tree, "KILLED", "other")
    tracking.replay()
    (tree / "dvc.lock").write_text((tree / "dvc.lock").read_text().replace("big.txt", "bag.txt"))
    here = tracking.replay()
    change("UPDATE runs SET end_time = end_time + 1 WHERE name != 'pipeline' AND run_uuid != ?", here.runs["make@big"])
    lines = mend(["not what was written", "not what was written"])
    told = {"other" if "written: other" in line else "make": line for line in lines}
    assert f"`semmae track` where commit {head[:10]} is checked out" in told["make"]
    assert "a walk that did not end is not written again" in told["other"]
    assert tracking.replay(ask=False) == here


def change_beside(index, words, *values):
    """The same, and this index keeps what was there."""
    known = "FROM sqlite_master WHERE name = ?"
    with contextlib.closing(sqlite3.connect(tracking.database())) as found, found:
        found.execute("PRAGMA writable_schema = ON")
        row = found.execute(f"SELECT * {known}", (index,)).fetchone()
        found.execute(f"DELETE {known}", (index,))
    change(words, *values)
    with contextlib.closing(sqlite3.connect(tracking.database())) as found, found:
        found.execute("PRAGMA writable_schema = ON")
        found.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", row)


def test_damaged_database__indices_are_made_again_from_tables_that_digests_vouch_for(tree):
    written = tracking.replay()
    stage = written.runs["make@big"]
    change_beside("index_tags_run_uuid", "UPDATE tags SET run_uuid = 'x' WHERE key = 'stage' AND run_uuid = ?", stage)
    assert not tracking.fault_of(tracking.database()), "no look at indices for each client"
    (line,) = examine(repair=False)
    assert "index_tags_run_uuid" in line and "repair makes them again" in line
    mended = examine(repair=True)
    assert "made again" in mended[0] and "not what was written: make@big" in mended[1] and len(mended) == 2
    assert examine(repair=False) == [] and set(tracking.replay().runs) == {"make@big"}


def test_damaged_database__whose_tables_nothing_vouches_for_is_moved_aside(tree):
    tracking.replay()
    change_beside("idx_experiments_workspace_creation_time", "UPDATE experiments SET creation_time = 1")
    (line,) = mend(["damaged"])
    assert "`semmae track`" in line and len(list((tree / ".semmae").glob("mlflow.db.*"))) == 1


def test_damaged_runs__where_mlflow_cannot_read_the_database_is_moved_aside(tree, capfd):
    tracking.replay()
    with contextlib.closing(sqlite3.connect(tracking.database())) as found:
        found.execute("ALTER TABLE latest_metrics RENAME COLUMN value TO vamue")
    (line,) = mend(["MLflow cannot read it"])
    assert "`semmae track`" in line and len(list((tree / ".semmae").glob("mlflow.db.*"))) == 1
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("said", ["Detected out-of-date database schema (found version a)", "database is locked"])
def test_damaged_runs__what_is_no_damage_moves_nothing(tree, monkeypatch, said):
    def refuse(*arguments, **options):
        raise OSError(said)

    tracking.replay()
    monkeypatch.setattr(doctor.run_damage, "damaged_runs", refuse)
    (line,) = examine(repair=True)
    assert "could not be examined" in line and said in line and "move it away" in line
    assert tracking.database()


def test_damaged_texts__are_replaced_and_their_runs_removed(tree):
    tracking.replay()
    change("UPDATE tags SET value = CAST(x'6dff' AS TEXT) WHERE key = 'git_dirty'")
    mended = examine(repair=True)
    assert "tags.value (2)" in mended[0] and "replaced" in mended[0] and "not what was written" in mended[1]
    assert examine(repair=True) == [] and statuses() == []
