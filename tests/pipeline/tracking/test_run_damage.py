"""A database of two states of the pipeline and a walk that was killed, damaged as no check of SQLite's would find."""

import contextlib
import shutil
import sqlite3

import pytest

from pipeline.tracking import replay as tracking
from pipeline.tracking.run_contents import CONTENT_TAG, PARENT_TAG
from pipeline.tracking.run_damage import broken_texts, damaged_runs
from tests.pipeline.tracking.test_replay import make_outs, write_lock, write_record


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "tree"
    folder.mkdir()
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        make_outs()
        write_record("pretrain@mae-0")
        first = tracking.replay()
        write_record("probe@mae-0", status="KILLED")
        tracking.replay(status="KILLED")
        write_lock("bbb")
        second = tracking.replay()
        assert first.pipeline != second.pipeline and len(active()) == 8
    return folder


@pytest.fixture
def database(original, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(shutil.copytree(original, tmp_path / "tree"))
    return tmp_path / "tree" / "tracking" / "mlflow.db"


def active():
    with tracking.client() as client:
        experiments = [one.experiment_id for one in client.search_experiments()]
        return {run.info.run_id: run for run in tracking.runs_of(client, experiments)}


def change(database, words, *values):
    with contextlib.closing(sqlite3.connect(database)) as found, found:
        assert found.execute(words, values).rowcount > 0, words


CHANGES = {
    "a parameter": "UPDATE params SET value = '11' WHERE run_uuid = ? AND key = 'pretrain.epochs'",
    "the name of a parameter": "UPDATE params SET key = 'pretrain.epocht' WHERE run_uuid = ? AND key = 'pretrain.epochs'",
    "a tag": "UPDATE tags SET value = 'maf' WHERE run_uuid = ? AND key = 'arm'",
    "a tag that is gone": "DELETE FROM tags WHERE run_uuid = ? AND key = 'arm'",
    "the digest": f"UPDATE tags SET value = 'x' || value WHERE run_uuid = ? AND key = '{CONTENT_TAG}'",
    "the digest that is gone": f"DELETE FROM tags WHERE run_uuid = ? AND key = '{CONTENT_TAG}'",
    "the link to the pipeline": f"UPDATE tags SET value = 'x' || value WHERE run_uuid = ? AND key = '{PARENT_TAG}'",
    "the link that is gone": f"DELETE FROM tags WHERE run_uuid = ? AND key = '{PARENT_TAG}'",
    "history": "UPDATE metrics SET value = 9 WHERE run_uuid = ? AND key = 'training/loss' AND step = 1",
    "a step of history": "UPDATE metrics SET step = 3 WHERE run_uuid = ? AND key = 'training/loss' AND step = 1",
    "a point that is gone": "DELETE FROM metrics WHERE run_uuid = ? AND key = 'training/loss' AND step = 1",
    "the last value": "UPDATE latest_metrics SET value = 9 WHERE run_uuid = ? AND key = 'training/loss'",
    "the name": "UPDATE runs SET name = 'pretraio@mae-0' WHERE run_uuid = ?",
    "the name's tag": "UPDATE tags SET value = 'pretraio@mae-0' WHERE run_uuid = ? AND key = 'mlflow.runName'",
    "the status": "UPDATE runs SET status = 'FAILED' WHERE run_uuid = ?",
    "the start": "UPDATE runs SET start_time = start_time + 1 WHERE run_uuid = ?",
    "the place of its files": "UPDATE runs SET artifact_uri = artifact_uri || 'x' WHERE run_uuid = ?",
    "another experiment": "UPDATE runs SET experiment_id = 0 WHERE run_uuid = ?",
    "no experiment": "UPDATE runs SET experiment_id = 7 WHERE run_uuid = ?",
}


@pytest.mark.parametrize("what", CHANGES)
def test_damaged_runs__are_named_removed_with_their_state_and_written_again(database, what):
    written = tracking.replay()
    before = active()
    stage = written.runs["pretrain@mae-0"]
    change(database, CHANGES[what], stage)
    (damaged,) = damaged_runs(database)
    assert (damaged.run_id, damaged.state) == (written.pipeline, tracking.state_of())
    assert len(damaged.names) == 1 and damaged_runs(database, remove=True) == [damaged]
    assert damaged_runs(database) == []
    gone = {written.pipeline, *written.runs.values()}
    assert set(active()) == set(before) - gone
    again = tracking.replay()
    assert set(again.runs) == set(written.runs) and not {again.pipeline, *again.runs.values()} & gone
    assert damaged_runs(database) == []


def test_damaged_runs__of_the_pipeline_itself_and_of_another_state(database):
    written = tracking.replay()
    others = {run.info.run_id: run.data.tags for run in active().values() if "semmae.pipeline" in run.data.tags}
    for run_id, tags in others.items():
        change(database, "UPDATE tags SET value = 'pipelinf' WHERE run_uuid = ? AND key = 'stage'", run_id)
        (damaged,) = damaged_runs(database, remove=True)
        assert (damaged.run_id, damaged.state) == (run_id, tags["semmae.pipeline"])
        assert (damaged.state == tracking.state_of()) == (run_id == written.pipeline)
    assert not active() and "" in {tags["semmae.pipeline"] for tags in others.values()}


def test_damaged_runs__of_data_that_runs_share_come_back_with_it_whole(database):
    change(database, "UPDATE datasets SET dataset_source = 'x' WHERE name = 'data/shards' AND digest = 'bbb.dir'")
    assert len(damaged_runs(database, remove=True)) == 1
    written = tracking.replay()
    assert damaged_runs(database) == []
    (data,) = active()[written.runs["pretrain@mae-0"]].inputs.dataset_inputs
    assert (data.dataset.source, data.dataset.source_type) == ("data/shards", "dvc")


def test_damaged_runs__what_people_do_in_the_pages_is_no_damage(database):
    with tracking.client() as client:
        for run_id in active_ids(client):
            client.set_tag(run_id, "mlflow.note.content", "the best one")
            client.set_tag(run_id, "mine", "1")
            client.update_run(run_id, name="another name")
        client.rename_experiment(client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id, "ours")
        one = client.create_run(client.get_experiment_by_name("ours").experiment_id, run_name="of somebody")
        client.log_param(one.info.run_id, "a", "1")
        client.set_terminated(one.info.run_id)
        client.delete_run(next(iter(active_ids(client))))
    assert damaged_runs(database) == []


def active_ids(client):
    experiments = [one.experiment_id for one in client.search_experiments()]
    return [run.info.run_id for run in tracking.runs_of(client, experiments)]


def test_damaged_runs__those_that_are_older_than_digests_are_left_alone(database):
    change(database, f"DELETE FROM tags WHERE key = '{CONTENT_TAG}'")
    change(database, "UPDATE params SET value = '11'")
    assert damaged_runs(database) == []


def test_damaged_runs__one_that_is_being_written_is_none(database):
    with tracking.client() as client:
        tracking._Writer(client)._start("late", {"stage": "pipeline"}, 1000.0)
    assert damaged_runs(database) == []


@pytest.mark.parametrize("text", ["UPDATE params SET value = CAST(x'31ff' AS TEXT) WHERE key = 'pretrain.epochs'",
                                  "UPDATE runs SET name = CAST(x'ff41' AS TEXT)"])  # fmt: skip
def test_broken_texts__are_replaced_so_that_mlflow_reads_and_the_run_is_found(database, text):
    change(database, text)
    with pytest.raises(Exception, match="UTF-8"):
        damaged_runs(database)
    found = broken_texts(database)
    assert found and broken_texts(database, mend=True) == found and broken_texts(database) == {}
    assert damaged_runs(database)
