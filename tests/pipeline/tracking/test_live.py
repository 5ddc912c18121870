import contextlib
import os
import shutil
import socket
import time

import pytest

from jobs import live
from jobs.live import Lines, line_file
from jobs.notes import read_note
from jobs.supervision import identity
from pipeline.tracking import live as following
from pipeline.tracking.client import client
from pipeline.tracking.live import Follower, lost_trainings
from pipeline.tracking.replay import replay
from pipeline.tracking.tags import PARENT_TAG, WRITER_TAG
from shards.files import write_rows
from shards.locks import lock
from tests.pipeline.tracking.test_replay import repository, runs, write_lock, write_record  # noqa: F401

STAGE, JOB = "pretrain@mae-0", "pretrain-mae-0.abc"
HISTORY = [{"step": 1, "loss": 0.9}, {"step": 2, "loss": 0.5}]


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """An empty tracking database: MLflow takes seconds to make one."""
    folder = tmp_path_factory.mktemp("empty")
    with contextlib.chdir(folder), client() as mlflow_client:
        mlflow_client.search_experiments()
    return folder / "tracking"


@pytest.fixture
def path(repository, empty, monkeypatch):  # noqa: F811
    """Where a training in the repository of the replay's tests writes its lines; nobody follows them by itself."""
    shutil.copytree(empty, "tracking")
    monkeypatch.setattr(Lines, "_keep_followed", lambda self: None)
    monkeypatch.setattr(following, "START_SECONDS", 0.0)
    monkeypatch.setenv("DVC_STAGE", f"dvc.yaml:{STAGE}")
    return line_file(JOB)


def follow(follower=None):
    """One pass of a follower, by default of one that has just started."""
    follower = follower or Follower()
    follower.look()
    follower.send()
    return follower


def dead(monkeypatch):
    """Have the process of the next line file be one that is gone."""
    monkeypatch.setattr(live, "identity", lambda pid: "1:0.00")


def only_run():
    """(run, its losses as (step, value)) of the only run."""
    mlflow_client, found = runs()
    (run,) = found.values()
    steps = mlflow_client.get_metric_history(run.info.run_id, "training/loss")
    return run, [(point.step, point.value) for point in steps]


def test_follower__a_training_has_a_run_whose_rows_arrive_once_whoever_follows(path):
    lines = Lines(path, "job")
    lines.extend(HISTORY[:1])
    follower = follow()
    run, losses = only_run()
    assert (run.info.status, losses) == ("RUNNING", [(1, 0.9)])
    assert (run.data.tags["stage"], run.data.tags["arm"], run.data.tags["seed"]) == ("pretrain", "mae", "0")
    lines.extend(HISTORY)
    path.with_suffix(".json").rename(path.with_suffix(".aside"))
    note = path.with_suffix(".aside").read_text()
    path.with_suffix(".json").write_text(note)
    follow(follower)
    # The follower is killed before it notes what it has sent.
    path.with_suffix(".json").write_text(note)
    lines.end("FINISHED")
    follow()
    run, losses = only_run()
    assert (run.info.status, losses) == ("FINISHED", [(1, 0.9), (2, 0.5)])


def test_follower__a_killed_training_says_so_and_goes_on_in_the_same_run(path, monkeypatch):
    with monkeypatch.context() as patch:
        dead(patch)
        Lines(path, "job").extend(HISTORY[:1])
        follower = Follower()
        follower.look()
    assert follower.trainings[path].status == "KILLED", "it is gone, and wrote no end"
    path.unlink()
    first = Lines(path, "job")
    first.extend(HISTORY[:1])
    follower = follow()
    first.end("KILLED")
    follow(follower)
    assert only_run()[0].info.status == "KILLED"
    second = Lines(path, "job")
    second.extend(HISTORY)
    follow()
    run, losses = only_run()
    assert (run.info.status, losses) == ("RUNNING", [(1, 0.9), (2, 0.5)])
    assert run.data.tags[WRITER_TAG] == f"{socket.gethostname()}/{identity(os.getpid())}"


def test_follower__a_training_that_ends_at_once_is_left_to_the_replay(path, monkeypatch):
    monkeypatch.setattr(following, "START_SECONDS", 60.0)
    lines = Lines(path, "job")
    follow()
    lines.end("FINISHED")
    monkeypatch.setattr(following, "START_SECONDS", 0.0)
    assert not Follower().look() and not path.with_suffix(".json").exists()
    follow()
    write_record(STAGE, live=JOB)
    assert set(replay().runs) == {"prepare_data", STAGE} and not path.exists()


def test_follower__a_lost_server_is_one_line_and_nothing_is_lost_or_told_twice(path, monkeypatch, capsys):
    lines = Lines(path, "job")
    lines.extend(HISTORY[:1])
    follower, moments = Follower(), []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    def passes(seconds):
        moments.append(seconds)
        if len(moments) == 2:
            lines.extend(HISTORY)
            monkeypatch.delenv("MLFLOW_TRACKING_URI")
        if len(moments) == 3:
            lines.end("FINISHED")
            monkeypatch.setattr(following, "IDLE_SECONDS", -1.0)

    monkeypatch.setattr(following.time, "sleep", passes)
    follower.run()
    assert capsys.readouterr().out.count("warning: http://127.0.0.1:9: ") == 1
    follow(follower)
    assert only_run()[1] == [(1, 0.9), (2, 0.5)]


def test_follower__measures_the_process_and_what_it_started(path, monkeypatch):
    monkeypatch.setattr(following, "SAMPLE_SECONDS", 0.0)
    Lines(path, "job")
    follower = Follower()
    follower.look()
    sum(range(10**6))
    follow(follower)
    metrics = only_run()[0].data.metrics
    assert metrics["system/cpu_percent"] > 0 and metrics["system/rss_mib"] > 10


def test_replay__completes_the_run_that_the_follower_began(path):
    lines = Lines(path, "job")
    lines.extend(HISTORY[:1])
    follower = follow()
    began = only_run()[0].info.run_id
    lines.extend(HISTORY)
    lines.end("FINISHED")
    write_record(STAGE, live=JOB)
    written = replay()
    assert written.runs[STAGE] == began
    mlflow_client, found = runs()
    assert {run.info.status for run in found.values()} == {"FINISHED"} and len(found) == 3
    run = mlflow_client.get_run(began)
    assert (run.data.tags[PARENT_TAG], run.data.tags["cache_hit"]) == (written.pipeline, "false")
    assert run.data.params == {"pretrain.epochs": "10", "pretrain.mask_ratio": "0.75"}
    steps = mlflow_client.get_metric_history(began, "training/loss")
    assert [(point.step, point.value) for point in steps] == [(1, 0.9), (2, 0.5)]
    assert not path.exists() and not path.with_suffix(".json").exists()
    follow(follower)
    assert len(runs()[1]) == 3, "there is nothing left to follow"


def test_replay__of_a_killed_training_is_the_run_that_goes_on_when_it_is_resumed(path):
    lines = Lines(path, "job")
    lines.extend(HISTORY[:1])
    lines.end("KILLED")
    write_record(STAGE, live=JOB, status="KILLED")
    killed = replay(status="KILLED").runs[STAGE]
    mlflow_client = runs()[0]
    assert mlflow_client.get_run(killed).info.status == "KILLED"
    assert [point.step for point in mlflow_client.get_metric_history(killed, "training/loss")] == [1]
    Lines(path, "job").extend(HISTORY)
    follow()
    assert mlflow_client.get_run(killed).info.status == "RUNNING"
    assert [point.step for point in mlflow_client.get_metric_history(killed, "training/loss")] == [1, 2]
    write_record(STAGE, live=JOB)
    whole = replay()
    assert whole.runs[STAGE] == killed
    assert mlflow_client.get_run(killed).data.tags[PARENT_TAG] == whole.pipeline


def test_replay__that_fails_keeps_the_run_of_the_training_for_the_next_one(path):
    lines = Lines(path, "job")
    lines.extend(HISTORY)
    follow()
    began = only_run()[0].info.run_id
    write_record(STAGE, live=JOB)
    write_rows("history/pretrain/mae-0.json", [])
    assert not replay().pipeline, "the history is another one than dvc.lock has"
    write_lock("aaa")
    assert replay().runs[STAGE] == began


def test_replay__a_run_that_somebody_deleted_is_written_anew(path):
    lines = Lines(path, "job")
    lines.extend(HISTORY[:1])
    follower = follow()
    began = only_run()[0].info.run_id
    with client() as mlflow_client:
        mlflow_client.delete_run(began)
    lines.extend(HISTORY)
    follow(follower)
    assert not runs()[1], "the follower does not bring it back"
    write_record(STAGE, live=JOB)
    written = replay().runs[STAGE]
    steps = runs()[0].get_metric_history(written, "training/loss")
    assert written != began and [point.step for point in steps] == [1, 2]


def test_lost_trainings__get_their_last_rows_and_say_killed(path, monkeypatch):
    dead(monkeypatch)
    lines = Lines(path, "job")
    lines.extend(HISTORY[:1])
    with monkeypatch.context() as patch:
        patch.setattr(following, "is_alive", lambda process: True)
        follow()
    lines.extend(HISTORY)
    with lock(live.folder(), "live"):
        assert lost_trainings(end=True) == [], "a follower will"
    assert only_run()[0].info.status == "RUNNING"
    (named,) = lost_trainings(end=False)
    assert named.startswith("mae 0 pretrain (") and lost_trainings(end=True) == [named]
    run, losses = only_run()
    assert (run.info.status, losses) == ("KILLED", [(1, 0.9), (2, 0.5)])
    assert time.time() - run.info.end_time / 1000 < 60 and lost_trainings(end=False) == []
    assert read_note(path.with_suffix(".json"))["run"] == run.info.run_id
