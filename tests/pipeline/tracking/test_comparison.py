"""A database of two states of the pipeline and a walk that was killed, damaged as no check of SQLite's would notice."""

import contextlib
import math
import shutil
import sqlite3
from pathlib import Path

import pytest

from pipeline.tracking import comparison
from pipeline.tracking.client import client, database, experiment_id, fault_of, runs_of
from pipeline.tracking.comparison import differing_runs
from pipeline.tracking.keys import state_of
from pipeline.tracking.replay import last_written, replay
from pipeline.tracking.stage_runs import Content, Point, write_content
from shards.files import write_json
from tests.pipeline.tracking.test_replay import make_outs, write_lock, write_record

STAGE, TITLE = "pretrain@mae-0", "mae 0 pretrain"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "tree"
    folder.mkdir()
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        make_outs()
        write_record(STAGE)
        replay()
        write_record("probe@mae-0", status="KILLED")
        replay(status="KILLED")
        write_lock("bbb")
        replay()
        assert len(active()) == 8
    return folder


@pytest.fixture
def tree(original, tmp_path, monkeypatch):
    """A copy of it, in which we are, with the id of the run of `STAGE` in the state that is checked out."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(shutil.copytree(original, tmp_path / "tree"))
    return replay()


def active():
    with client() as mlflow_client:
        experiments = [one.experiment_id for one in mlflow_client.search_experiments()]
        return {run.info.run_id: run for run in runs_of(mlflow_client, experiments)}


def differing():
    state = state_of()
    assert not fault_of(database(), whole=True)
    return differing_runs(active(), state, last_written(state.key))


def change(words, *values):
    with contextlib.closing(sqlite3.connect(database())) as connection, connection:
        assert connection.execute(words, values).rowcount > 0, words


CHANGES = {
    "a parameter": "UPDATE params SET value = '11' WHERE run_uuid = ? AND key = 'pretrain.epochs'",
    "a parameter that is gone": "DELETE FROM params WHERE run_uuid = ? AND key = 'pretrain.epochs'",
    "a tag": "UPDATE tags SET value = 'maf' WHERE run_uuid = ? AND key = 'arm'",
    "the key": "UPDATE tags SET value = 'x' || value WHERE run_uuid = ? AND key = 'fingerprint'",
    "the link to the pipeline": "UPDATE tags SET value = 'x' || value WHERE run_uuid = ? AND key = 'mlflow.parentRunId'",
    "the last value of a metric": "UPDATE latest_metrics SET value = 9 WHERE run_uuid = ? AND key = 'training/loss'",
    "a metric that is gone": "DELETE FROM latest_metrics WHERE run_uuid = ? AND key = 'loss'",
    "the status": "UPDATE runs SET status = 'FAILED' WHERE run_uuid = ?",
    "its data": "UPDATE datasets SET dataset_source = 'x' WHERE digest = 'bbb.dir' AND ? != ''",
}


def test_differing_runs__none_differ_after_a_replay(tree):
    assert differing() == []


@pytest.mark.parametrize("what", CHANGES)
def test_differing_runs__names_the_run_whose_content_changed(tree, what):
    change(CHANGES[what], tree.runs[STAGE])
    assert set(differing()) - {"prepare_data"} == {TITLE}


@pytest.mark.parametrize("words", ["UPDATE tags SET value = 'x' WHERE key = 'semmae.pipeline' AND run_uuid = ?",
                                   "UPDATE tags SET value = 'x' WHERE key = 'stage' AND run_uuid = ?"])  # fmt: skip
def test_differing_runs__of_the_pipeline_itself(tree, words):
    change(words, tree.pipeline)
    assert differing() == ["pipeline"]


def test_differing_runs__what_people_do_in_the_pages_does_not_count(tree):
    run_ids = list(active())
    with client() as mlflow_client:
        for run_id in run_ids:
            mlflow_client.set_tag(run_id, "mlflow.note.content", "the best one")
            mlflow_client.set_tag(run_id, "mine", "1")
            mlflow_client.log_metric(run_id, "mine", 1.0)
            mlflow_client.update_run(run_id, name="another name")
        ours = experiment_id(mlflow_client)
        mlflow_client.create_run(ours, run_name="of somebody", tags={"mlflow.parentRunId": tree.pipeline})
        mlflow_client.delete_run(tree.runs["prepare_data"])
    assert differing() == []


def test_differing_runs__tags_of_another_version_do_not_count(tree):
    change("DELETE FROM tags WHERE key IN ('arm', 'threads')")
    with client() as mlflow_client:
        mlflow_client.set_tag(tree.runs[STAGE], "semmae.content", "0123 of an earlier version")
    assert differing() == []


def test_differing_runs__a_stage_whose_outs_changed_or_are_gone_is_not_compared(tree):
    change("UPDATE params SET value = '11' WHERE key = 'pretrain.epochs'")
    write_json("metrics/pretrain/mae-0.json", {"loss": 0.25})
    assert differing() == []
    Path("metrics/pretrain/mae-0.json").unlink()
    assert differing() == []


def test_differing_runs__runs_of_other_states_and_half_written_ones_are_not_compared(tree):
    change("UPDATE params SET value = '11' WHERE run_uuid NOT IN (?, ?)", tree.runs[STAGE], tree.pipeline)
    change("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", tree.runs["prepare_data"])
    assert differing() == []


def test_last__numbers_come_back_from_a_database_as_they_are_expected(tree, monkeypatch):
    numbers = [0.1, -0.0, 3, 2**53, 5e-324, math.nan, math.inf, -math.inf, 1.7976931348623157e308]
    points = [Point(f"m{place}", value, 0) for place, value in enumerate(numbers)]
    points += [Point("loss", 1 / (step + 1), step) for step in range(1500)] + [Point("loss", 1.0, 0)]
    content = Content(
        {"empty": "", "long": "a" * 6000, "signs": "ß 漢 \U0001f600\n x "}, points, [("d", "1"), ("d", "1")]
    )
    with client() as mlflow_client:
        run_id = mlflow_client.create_run(experiment_id(mlflow_client)).info.run_id
        write_content(mlflow_client, run_id, content)
    monkeypatch.setattr(comparison, "content_of", lambda *_: content)
    assert comparison._is_content_of(active()[run_id], {})
