"""A repository with runs in MLflow that is moved, or copied beside its original."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from pipeline.tracking.client import client
from pipeline.tracking.relocation import follow_repository
from pipeline.tracking.replay import replay
from shards.files import md5_of, write_text

FIGURE = "report/figures/curve 1.svg"


def write_state(text):
    """A state of one stage, which draws a picture."""
    write_text(FIGURE, text)
    outs = f"[{{path: report/figures, hash: md5, md5: {md5_of(FIGURE)}.dir}}]"
    write_text("dvc.yaml", "stages: {draw: {}}")
    write_text("dvc.lock", f"stages: {{draw: {{cmd: x, outs: {outs}}}}}")


def opened(run):
    """What MLflow's client has of the picture of a run."""
    with client() as mlflow_client:
        (path,) = mlflow_client.list_artifacts(run)
        return Path(mlflow_client.download_artifacts(run, path.path)).read_text()


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("location", ["mlflow-artifacts:/1", "s3://bucket/tracking/artifacts", "file:///mine"])
def test_artifacts__at_another_place_stay_there(tmp_path, capsys, location):
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("CREATE TABLE experiments (name, artifact_location)")
        connection.execute("INSERT INTO experiments VALUES ('semmae', ?)", (location,))
    follow_repository(tmp_path / "mlflow.db", "semmae", "file:///here/tracking/artifacts")
    assert connection.execute("SELECT artifact_location FROM experiments").fetchall() == [(location,)]
    assert capsys.readouterr().err == ""
    connection.close()


@pytest.mark.parametrize("transfer", [shutil.move, shutil.copytree], ids=["moved", "copied"])
def test_artifacts__follow_a_repository_and_nothing_is_written_where_it_was(tmp_path, monkeypatch, capsys, transfer):
    before, after = tmp_path / "it was_here", tmp_path / "is here"
    before.mkdir()
    monkeypatch.chdir(before)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_state("first")
    with client() as mlflow_client:
        other = mlflow_client.create_experiment("elsewhere", artifact_location=f"{tmp_path}/other")
        mlflow_client.create_registered_model("encoder")
    first = replay().runs["draw"]
    with client() as mlflow_client:
        uri = mlflow_client.get_run(first).info.artifact_uri
        mlflow_client.create_model_version("encoder", f"{uri}/encoder", first)
    monkeypatch.chdir(tmp_path)
    transfer(before, after)
    original = content(before)
    monkeypatch.chdir(after)
    capsys.readouterr()
    write_state("second")
    second = replay().runs["draw"]
    (line,) = capsys.readouterr().err.splitlines()
    assert f"was at {before}; " in line
    assert (opened(first), opened(second)) == ("first", "second")
    assert content(before) == original and before.exists() == bool(original)
    with client() as mlflow_client:
        assert mlflow_client.get_experiment(other).artifact_location == f"{tmp_path}/other"
        assert (
            mlflow_client.get_model_version("encoder", "1").source
            == f"{uri.replace(before.as_uri(), after.as_uri())}/encoder"
        )
        every = [one.artifact_location for one in mlflow_client.search_experiments()]
    assert not [location for location in every if before.name in location]
    assert "this repository was" not in capsys.readouterr().err, "said once"
