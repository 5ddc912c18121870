import json

import pytest

from pipeline import tracking
from pipeline.files import write_json, write_rows


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder with a dvc.lock of two stages and their outs, outside of any git repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_json("metrics/pretrain/mae-0.json", {"loss": 0.5, "images": 640})
    write_rows("history/pretrain/mae-0.json", [{"step": 1, "loss": 0.9}, {"step": 2, "loss": 0.5}])
    write_lock("aaa")
    return tmp_path


def write_lock(digest):
    (tracking.Path("dvc.lock")).write_text(
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
    - {{path: history/pretrain/mae-0.json, hash: md5, md5: bbb, size: 1}}
    - {{path: metrics/pretrain/mae-0.json, hash: md5, md5: ccc, size: 1}}
"""
    )


def runs():
    with tracking._client() as client:
        experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
        return client, {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_replay__each_result_gets_one_run_and_a_second_replay_none(repository):
    write_json(".semmae/records/pretrain@mae-0.json", {
        "stage": "pretrain@mae-0", "started": 1000.0, "seconds": 3.0, "peak_mib": 400.0, "cpu_seconds": 5.0,
        "status": "FINISHED", "dvc_experiment": "",
    })  # fmt: skip
    assert tracking.replay() == 2
    assert tracking.replay() == 0
    client, found = runs()
    run = found["pretrain@mae-0"]
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 3000
    assert run.data.params == {"pretrain.epochs": "10", "pretrain.mask_ratio": "0.75"}
    assert run.data.metrics["loss"] == 0.5
    assert run.data.metrics["system/peak_mib"] == 400
    assert (run.data.tags["arm"], run.data.tags["seed"], run.data.tags["stage"]) == ("mae", "0", "pretrain")
    assert [dataset.dataset.digest for dataset in run.inputs.dataset_inputs] == ["aaa.dir"]
    steps = client.get_metric_history(run.info.run_id, "training/loss")
    assert [(point.step, point.value) for point in steps] == [(1, 0.9), (2, 0.5)]
    assert run.data.tags["cache_hit"] == "false"
    assert found["prepare_data"].data.tags["cache_hit"] == "true"
    # Another result of the same stage is another run.
    write_lock("ddd")
    assert tracking.replay() == 2
    # An execution that was terminated is a run of its own, recorded once.
    write_json(".semmae/records/probe@mae-0.json", {
        "stage": "probe@mae-0", "started": 1000.0, "seconds": 3.0, "peak_mib": 1.0, "cpu_seconds": 1.0, "status": "KILLED",
        "dvc_experiment": "",
    })  # fmt: skip
    assert tracking.replay() == 1
    assert tracking.replay() == 0
    assert runs()[1]["probe@mae-0"].info.status == "KILLED"


def test_replay__the_report_and_all_its_figures_go_to_the_run_of_the_comparison(repository):
    for name in ("report/report.html", "report/figures/image_0.png", "report/figures/parts.png", "report/curves.csv"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(name)
    outs = "".join(f"\n    - {{path: report/{name}, md5: x}}" for name in ("report.html", "figures", "curves.csv"))
    with open("dvc.lock", "a", encoding="utf-8") as file:
        file.write(f"  compare:\n    cmd: python -m stages.compare\n    outs:{outs}\n")
    assert tracking.replay() == 3
    client, found = runs()
    kept = {file.path for file in client.list_artifacts(found["compare"].info.run_id)}
    assert kept == {"report.html", "image_0.png", "parts.png"}


def test_replay__a_lost_server_is_one_warning(repository, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert tracking.replay() == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: tracking: http://127.0.0.1:9")
    assert "semmae track" in lines[0]


def test_replay__a_broken_database_is_one_warning(repository, capsys):
    database = repository / "tracking" / "mlflow.db"
    database.parent.mkdir()
    database.write_bytes(b"not a database" * 100)
    assert tracking.replay() == 0
    assert "warning: tracking" in capsys.readouterr().out


def test_key_of__depends_on_every_recorded_hash():
    entry = {"cmd": "x", "deps": [{"path": "a", "md5": "1"}]}
    other = json.loads(json.dumps(entry))
    other["deps"][0]["md5"] = "2"
    assert tracking.key_of("s", entry) != tracking.key_of("s", other)
    assert tracking.key_of("s", entry) == tracking.key_of("s", dict(reversed(entry.items())))
