import os
from pathlib import Path

import pytest

from jobs.notes import write_note
from jobs.supervision import identity
from pipeline.tracking import executions, tags, writer
from pipeline.tracking import replay as tracking
from pipeline.tracking.client import EXPERIMENT, client
from pipeline.tracking.replay import forget_last, replay
from shards.files import md5_of, read_json, write_json, write_rows


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder with a dvc.lock of two stages and their outs, outside of any git repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_outs()
    return tmp_path


def make_outs():
    Path("dvc.yaml").write_text("stages: {prepare_data: {}, pretrain: {matrix: {arm: [mae], seed: [0]}}, compare: {}}")
    write_json("metrics/pretrain/mae-0.json", {"loss": 0.5, "images": 640})
    write_rows("history/pretrain/mae-0.json", [{"step": 1, "loss": 0.9}, {"step": 2, "loss": 0.5}])
    write_lock("aaa")


def write_lock(digest):
    Path("dvc.lock").write_text(
        f"""
schema: '2.0'
stages:
  prepare_data:
    cmd: python -m stages.prepare_data
    deps:
    - {{path: data/creatures, hash: md5, md5: {digest}.dir, size: 1, nfiles: 1}}
  pretrain@mae-0:
    cmd: python -m stages.pretrain mae 0
    deps:
    - {{path: data/shards, hash: md5, md5: {digest}.dir, size: 1, nfiles: 1}}
    params:
      params.yaml:
        pretrain: {{epochs: 10, mask_ratio: 0.75}}
    outs:
    - {{path: history/pretrain/mae-0.json, hash: md5, md5: {md5_of("history/pretrain/mae-0.json")}, size: 1}}
    - {{path: metrics/pretrain/mae-0.json, hash: md5, md5: {md5_of("metrics/pretrain/mae-0.json")}, size: 1}}
"""
    )


def runs():
    """Stage as DVC names it -> run, the newest of each."""
    with client() as mlflow_client:
        experiment = mlflow_client.get_experiment_by_name(EXPERIMENT).experiment_id
        every = mlflow_client.search_runs([experiment], order_by=["attributes.start_time ASC"])
        return mlflow_client, {run.data.tags["dvc_stage"]: run for run in every}


def write_record(name, **changes):
    write_note(f".semmae/records/{name}.json", {
        "stage": name, "started": 1000.0, "seconds": 3.0, "peak_mib": 400.0, "cpu_seconds": 5.0, "status": "FINISHED",
        "device": "cpu", "precision": "fp32", "torch": "2", "slot": "cpu 1", **changes,
    })  # fmt: skip


def test_replay__a_state_gets_one_run_over_one_for_each_stage_and_a_second_replay_none(repository):
    write_record("pretrain@mae-0")
    written = replay()
    assert set(written.runs) == {"prepare_data", "pretrain@mae-0"}
    assert replay() == written
    mlflow_client, found = runs()
    assert set(found) == {"pipeline", "prepare_data", "pretrain@mae-0"}
    run = found["pretrain@mae-0"]
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 3000
    assert run.data.params == {"pretrain.epochs": "10", "pretrain.mask_ratio": "0.75"}
    assert run.data.metrics["loss"] == 0.5
    assert run.data.metrics["system/peak_mib"] == 400
    assert (run.data.tags["arm"], run.data.tags["seed"], run.data.tags["stage"]) == ("mae", "0", "pretrain")
    assert run.info.run_name == "mae 0 pretrain"
    assert [run.data.tags[name] for name in ("device", "precision", "slot")] == ["cpu", "fp32", "cpu 1"]
    assert run.data.tags["mlflow.parentRunId"] == written.pipeline == found["pipeline"].info.run_id
    assert [dataset.dataset.digest for dataset in run.inputs.dataset_inputs] == ["aaa.dir"]
    steps = mlflow_client.get_metric_history(run.info.run_id, "training/loss")
    assert [(point.step, point.value) for point in steps] == [(1, 0.9), (2, 0.5)]
    assert run.data.tags["cache_hit"] == "false"
    assert found["prepare_data"].data.tags["cache_hit"] == "true"
    assert not list((repository / ".semmae/records").iterdir())


def test_replay__a_stage_that_was_restored_has_the_same_numbers_and_a_link_to_its_computation(repository, monkeypatch):
    write_record("pretrain@mae-0")
    first = replay()
    monkeypatch.setenv("SEMMAE_EXPERIMENT", "again")
    second = replay()
    assert set(second.runs) == set(first.runs) and second.pipeline != first.pipeline
    mlflow_client, found = runs()
    assert (found["pipeline"].info.run_name, found["prepare_data"].info.run_name) == ("again", "again prepare_data")
    mlflow_client.update_run(second.runs["prepare_data"], name="mine")
    forget_last()
    assert replay() == second, "a name that a person gave changes nothing"
    restored, computed = found["pretrain@mae-0"], mlflow_client.get_run(first.runs["pretrain@mae-0"])
    assert restored.info.run_id == second.runs["pretrain@mae-0"]
    assert restored.data.tags["computed_by"] == first.runs["pretrain@mae-0"]
    assert (restored.data.tags["cache_hit"], restored.data.tags["dvc_experiment"]) == ("true", "again")
    assert restored.data.params == computed.data.params
    assert restored.data.metrics["training/loss"] == computed.data.metrics["training/loss"]
    write_lock("ddd")
    assert set(replay().runs) == set(first.runs)


def test_replay__what_was_terminated_is_recorded_once_and_never_as_running(repository):
    write_record("probe@mae-0", status="KILLED")
    write_record("pretrain@mae-0")
    written = replay(status="KILLED")
    assert set(written.runs) == {"pretrain@mae-0", "probe@mae-0"}
    found = runs()[1]
    assert {name: run.info.status for name, run in found.items()} == {
        "pipeline": "KILLED", "pretrain@mae-0": "FINISHED", "probe@mae-0": "KILLED",
    }  # fmt: skip
    assert replay(status="KILLED").runs == {}
    whole = replay()
    assert set(whole.runs) == {"prepare_data", "pretrain@mae-0"}
    link = runs()[0].get_run(whole.runs["pretrain@mae-0"]).data.tags["computed_by"]
    assert link == written.runs["pretrain@mae-0"]


def test_replay__notes_what_every_execution_changed_also_after_a_restored_one(repository):
    def noted():
        return read_json(executions.executions() / "pretrain@mae-0.json")

    def digest_of(entry):
        return entry["deps"][0]["md5"]

    write_record("pretrain@mae-0")
    replay()
    assert noted()["previous"] == {} and digest_of(noted()["entry"]) == "aaa.dir"
    write_lock("bbb")
    write_record("pretrain@mae-0")
    replay()
    assert digest_of(noted()["previous"]) == "aaa.dir" and digest_of(noted()["entry"]) == "bbb.dir"
    write_lock("aaa")
    replay()
    assert digest_of(noted()["entry"]) == "bbb.dir", "nothing was executed"
    write_lock("ccc")
    write_record("pretrain@mae-0")
    replay()
    assert digest_of(noted()["previous"]) == "aaa.dir" and digest_of(noted()["entry"]) == "ccc.dir"


def test_replay__of_fewer_seeds_than_the_lock_names_is_of_those_that_run(repository):
    inherited = "  pretrain@mae-1:\n    cmd: x\n    outs: [{path: metrics/pretrain/mae-1.json, md5: gone}]\n"
    with open("dvc.lock", "a", encoding="utf-8") as file:
        file.write(inherited)
    first = replay()
    assert set(first.runs) == {"prepare_data", "pretrain@mae-0"}
    write_lock("aaa")
    assert replay() == first, "the lock alone has forgotten them"


def test_replay__that_fails_leaves_nothing_half_written(repository, monkeypatch, capsys):
    def fail(*arguments):
        raise ValueError("of the second stage")

    with monkeypatch.context() as patch:
        patch.setattr(writer.Writer, "_write", fail)
        assert not replay().pipeline
    assert "of the second stage; MLflow lacks these runs until `semmae track`" in capsys.readouterr().out
    assert not runs()[1]


def test_replay__a_stage_whose_outs_are_not_here_is_left_out_and_named_once(repository, capsys):
    path = Path("metrics/pretrain/mae-0.json")
    content = path.read_bytes()
    path.unlink()
    assert set(replay().runs) == {"prepare_data"}
    assert capsys.readouterr().out.count("leaves out pretrain@mae-0: ") == 1
    assert {name: run.info.status for name, run in runs()[1].items()} == dict.fromkeys(
        ("pipeline", "prepare_data"), "FINISHED"
    )
    path.write_bytes(content)
    whole = replay()
    assert set(whole.runs) == {"prepare_data", "pretrain@mae-0"} and not capsys.readouterr().out
    path.unlink()
    assert replay() == whole, "what MLflow has, it has"


@pytest.mark.parametrize("name", ["1:0.00", identity(os.getpid())], ids=["of another process", "of this one"])
def test_replay__runs_of_a_replay_that_died_are_written_again(repository, monkeypatch, name):
    def die(*arguments):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_content", die)
        patch.setattr(tags, "identity", lambda pid: name)
        with pytest.raises(SystemExit):
            replay()
    assert [run.info.status for run in runs()[1].values()] == ["RUNNING", "RUNNING"]
    assert len(replay().runs) == 2
    assert {run.info.status for run in runs()[1].values()} == {"FINISHED"}
    assert len(runs()[1]) == 3


def test_replay__without_asking_a_state_that_was_written_costs_no_connection(repository, monkeypatch):
    written = replay()

    def refuse():
        raise AssertionError("connected")

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "client", refuse)
        assert replay(ask=False) == written
        assert not replay().runs, "it would have asked"
    write_record("pretrain@mae-0", status="KILLED", started=2e9)
    assert replay(ask=False) == written
    assert runs()[1]["pretrain@mae-0"].info.status == "KILLED", "what was terminated is told all the same"
    write_lock("ddd")
    assert replay(ask=False).pipeline != written.pipeline
    (repository / "tracking" / "mlflow.db").unlink()
    assert replay(ask=False).pipeline, "a database that is gone is written again"
    assert len(runs()[1]) == 3


def test_replay__an_execution_that_dvc_did_not_come_to_record_waits_for_the_next_one(repository, capsys):
    """A DVC that is killed behind its stage leaves other outs than dvc.lock has; they are not damaged, and not its numbers."""
    write_record("pretrain@mae-0")
    write_json("metrics/pretrain/mae-0.json", {"loss": 0.25, "images": 640})
    write_record("prepare_data", status="KILLED")
    written = replay(status="KILLED")
    assert set(written.runs) == {"prepare_data"} and capsys.readouterr().out == ""
    assert [path.stem for path in executions.records_folder().glob("*.json")] == ["pretrain@mae-0"]
    write_json("metrics/pretrain/mae-0.json", {"loss": 0.5, "images": 640})
    assert set(replay(status="KILLED").runs) == {"pretrain@mae-0"}, "as it is recorded it is told"


def test_replay__a_lost_server_is_one_warning(repository, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert not replay().runs
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: tracking: http://127.0.0.1:9")
    assert "semmae track" in lines[0]


def test_replay__a_broken_database_is_one_warning(repository, capsys):
    database = repository / "tracking" / "mlflow.db"
    database.parent.mkdir()
    database.write_bytes(b"not a database" * 100)
    assert not replay().runs
    assert "warning: tracking" in capsys.readouterr().out
