"""A state whose report says what a literal comparison.csv does, replayed."""

import json
from pathlib import Path

import pandas as pd
import pytest

from config.presets import compose, write_params
from jobs.notes import write_note
from pipeline.tracking.client import client, experiment_id
from pipeline.tracking.comparison import differing_runs
from pipeline.tracking.keys import state_of
from pipeline.tracking.replay import last_experiment, replay
from pipeline.tracking.views import runs_page
from reports.comparison import COLUMNS, NO_ACCURACY, to_csv
from reports.table import MLFLOW_PAGE
from shards.files import md5_of, write_json, write_text
from tests.conftest import ROOT

ARMS = [
    {"arm": "semmae", "mean": 0.75, "difference": 0.25, "difference_low": 0.125, "difference_high": 0.375, "verdict": "higher"},
    {"arm": "mae", "mean": 0.5, "verdict": "baseline"},
]  # fmt: skip
EVERY = {"baseline": "mae", "seeds": 5, "test_images": 40, "chance": 0.1, "confidence": 0.95, "se": 0.01}


def rows(*protocols):
    made = [{"protocol": protocol, **EVERY, **arm} for arm in ARMS for protocol in protocols]
    return pd.DataFrame(made, columns=[*COLUMNS, "seed_0"])


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the report of these rows, and what dvc.lock has of it, into an empty folder with the presets."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(ROOT)
    document = compose("quickstart")
    monkeypatch.chdir(tmp_path)
    Path("presets").symlink_to(ROOT / "presets")
    document["pretrain"]["epochs"] = 7
    write_params(document, preset="quickstart")

    def written(frame):
        write_text(Path("report/comparison.csv"), to_csv(frame))
        write_json(
            "report/metrics.json", {"mae/val_loss/mean": 0.5, "mae/val_loss/se": 0.125, "semmae/val_loss/mean": 0.25}
        )
        for name in ("report.html", "figures/parts.png"):
            write_text(Path("report") / name, name)
        files = {name: md5_of(f"report/{name}") for name in ("comparison.csv", "metrics.json", "report.html")}
        outs = [{"path": f"report/{name}", "md5": md5} for name, md5 in {**files, "figures": "x.dir"}.items()]
        write_text("dvc.yaml", "stages: {compare: {cmd: python -m stages.compare}}")
        write_json(
            "dvc.lock", {"schema": "2.0", "stages": {"compare": {"cmd": "python -m stages.compare", "outs": outs}}}
        )

    return written


def run_of(replayed):
    with client() as mlflow_client:
        return mlflow_client.get_run(replayed.pipeline)


def artifacts(run):
    with client() as mlflow_client:
        return {file.path for file in mlflow_client.list_artifacts(run)}


def view(name):
    """Name and state of a saved view."""
    with client() as mlflow_client:
        tags = mlflow_client.get_experiment(experiment_id(mlflow_client)).tags
    saved = json.loads(tags[f"mlflow.sharedViewState.{name}"])
    return saved["name"], json.loads(saved["state"])


def test_replay__the_run_of_a_state_has_headline_metrics_the_report_and_a_description(write, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://user:secret@host:4200/api")
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "c0ffee")
    write(rows("linear_accuracy", "linear_class_accuracy"))
    replayed = replay()
    run = run_of(replayed)
    assert run.data.metrics == {
        "linear_accuracy/semmae": 0.75, "linear_accuracy/mae": 0.5,
        "linear_accuracy/semmae_minus_mae": 0.25, "linear_accuracy/semmae_minus_mae_margin": 0.125,
    }  # fmt: skip
    assert artifacts(replayed.pipeline) == {"report.html"} and artifacts(replayed.runs["compare"]) == {"parts.png"}
    text = run.data.tags["mlflow.note.content"]
    assert text.startswith("semmae against mae: higher in linear probe (+25.0), in percentage points.")
    assert "| semmae | 75.0 ± 1.0 (+25.0) |\n| mae | 50.0 ± 1.0 |" in text
    assert f"(#/experiments/1/runs/{replayed.pipeline}/artifacts/report.html?workflowType=machine_learning)" in text
    assert "(http://host:4200/runs/flow-run/c0ffee)" in text and "secret" not in text
    assert text.endswith("Parameters that differ from preset quickstart:\n\n- `pretrain.epochs`: 4 → 7")


def test_replay__without_labels_there_is_no_accuracy(write):
    write(rows())
    run = run_of(replay())
    assert run.data.metrics == {"val_loss/semmae": 0.25, "val_loss/mae": 0.5}
    assert run.data.tags["mlflow.note.content"].startswith(NO_ACCURACY)
    assert "| mae | 0.500 ± 0.125 |" in run.data.tags["mlflow.note.content"]


def test_replay__of_a_comparison_that_failed_there_is_no_headline(write):
    record = {"stage": "compare", "started": 1000.0, "seconds": 3.0, "status": "FAILED"}
    write_note(".semmae/records/compare.json", record)
    run = run_of(replay(status="FAILED"))
    assert (run.info.status, run.data.metrics) == ("FAILED", {})
    assert run.data.tags["mlflow.note.content"].startswith("[pretraining curves]")


def test_replay__a_preset_that_is_gone_is_named(write):
    write_text(Path("params.yaml"), Path("params.yaml").read_text().replace("Preset: quickstart", "Preset: gone"))
    write(rows("linear_accuracy"))
    assert "Parameters: preset gone: unknown" in run_of(replay()).data.tags["mlflow.note.content"]


def test_views__show_the_states_with_the_metrics_of_all_and_the_pretrainings(write):
    assert last_experiment() == "1"
    write(rows("linear_accuracy"))
    replay()
    write(rows("knn_accuracy"))
    replay()
    name, state = view("results")
    assert name == "Results" and state["searchFilter"] == 'tags.stage = "pipeline"'
    accuracies = [f"metrics.`{one}_accuracy/{arm}`" for one in ("knn", "linear") for arm in ("mae", "semmae")]
    differences = [f"metrics.`{one}_accuracy/semmae_minus_mae`" for one in ("knn", "linear")]
    assert state["selectedColumns"] == ["attributes.`Description`", *accuracies, *differences]
    assert view("pretraining")[1]["searchFilter"] == 'tags.stage = "pretrain"'
    assert runs_page("http://127.0.0.1:5000", last_experiment()) == MLFLOW_PAGE


def test_differing_runs__compares_headline_metrics_and_no_description(write):
    write(rows("linear_accuracy"))
    replayed, state = replay(), state_of()

    def differing():
        return differing_runs({replayed.pipeline: run_of(replayed)}, state, replayed)

    with client() as mlflow_client:
        mlflow_client.set_tag(replayed.pipeline, "mlflow.note.content", "mine")
        mlflow_client.log_metric(replayed.pipeline, "mine", 1.0)
    assert differing() == []
    with client() as mlflow_client:
        mlflow_client.log_metric(replayed.pipeline, "linear_accuracy/mae", 0.625)
    assert differing() == ["pipeline"]
    write_text(Path("report/comparison.csv"), "changed")
    assert differing() == [], "there is nothing to compare with"
