"""Canaries in every place that knows credentials; after runs that fail and succeed they are where they were put alone."""

import os
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from config.redaction import MARK
from jobs.notes import write_note
from pipeline.execution import execute
from pipeline.slots import CPU, Needs
from pipeline.tracking.client import client as mlflow_client
from pipeline.tracking.replay import replay
from tests.conftest import ROOT
from tests.pipeline.conftest import IDENTITY, make_small

CANARY = "c4n4ry"
STAGES = """
stages:
  fetches:
    cmd: python -m stages.fetches
    deps: [mine]
    outs: [out/fetched]
  says:
    cmd: echo "asked $STORE"; exit 3
    always_changed: true
"""
FETCHES = """
import os
from pathlib import Path
from jobs.record import note
from jobs.stage import run

def main():
    if "fine" not in Path("mine/image.txt").read_text():
        raise ValueError(f"{os.environ['STORE']}: 401 for {os.environ['HF_TOKEN']}; give it another")
    note(device="cpu", source=os.environ["STORE"])
    Path("out").mkdir(exist_ok=True)
    Path("out/fetched").write_text("fetched")

if __name__ == "__main__":
    run(main)
"""
SECRETS = {
    "STORE": f"https://user:{CANARY}-store@example.org/images?token={CANARY}-query",
    "HF_TOKEN": f"{CANARY}-token",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}-aws",
}
SEMMAE = [sys.executable, "-c", "from pipeline.cli import main; main()"]


@pytest.fixture
def repository(tmp_path):
    """A repository whose remotes, of git and of DVC, have passwords."""
    folder = make_small(tmp_path / "small", STAGES, {"stages/__init__.py": "", "stages/fetches.py": FETCHES})
    remote = f"https://user:{CANARY}-git@example.org/owner/repository.git"
    subprocess.run(["git", "remote", "add", "origin", remote], cwd=folder, check=True)
    (folder / ".dvc" / "config.local").write_text(
        f"['remote \"store\"']\n    url = https://user:{CANARY}-dvc@example.org/store\n    password = {CANARY}-dvc\n"
    )
    return folder


def environment(**more):
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    kept = {name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")}
    own = {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1", "SHELL": "/bin/sh", "PATH": path}
    return {**kept, **IDENTITY, **own, **SECRETS, **more}


def run(folder, *words, **more):
    return subprocess.run(
        [*SEMMAE, *words], cwd=folder, env=environment(**more), capture_output=True, text=True, check=False
    )


def places_of(folder):
    """The files that hold a canary, but for those that it was put into."""
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and CANARY.encode() in path.read_bytes()
        and path.relative_to(folder).as_posix() not in (".git/config", ".dvc/config.local")
    ]  # fmt: skip


@pytest.mark.slow
def test_run__no_canary_leaves_its_place(repository):
    failed = run(repository, "run", "fetches", MLFLOW_TRACKING_URI=f"http://user:{CANARY}-mlflow@127.0.0.1:1")
    assert failed.returncode == 1 and f"https://{MARK}@example.org" in failed.stdout, failed.stdout + failed.stderr
    assert f"warning: tracking: http://{MARK}@127.0.0.1:1" in failed.stdout
    assert places_of(repository) == []
    (repository / "mine" / "image.txt").write_text("a fine image")
    done = run(repository, "run", "fetches")
    assert done.returncode == 0 and (repository / "tracking" / "mlflow.db").is_file(), done.stdout + done.stderr
    assert places_of(repository) == []
    for answer in (failed, done):
        assert CANARY not in answer.stdout + answer.stderr


def test_execute__what_is_passed_on_of_a_stage_holds_no_secret(repository, monkeypatch):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(repository)
    heard = []
    outcome = execute(
        "says", root=repository, needs=Needs(CPU, 1), job="says", log=repository / ".semmae" / "says.log",
        on_line=heard.append, cancelled=Event(), patience=60,
    )  # fmt: skip
    assert outcome.status == "failed" and any(f"asked https://{MARK}@example.org" in line for line in heard)
    assert CANARY not in repr(outcome) + repr(heard)


def test_replay__an_old_record_with_credentials_is_told_without(tmp_path, monkeypatch):
    """What was recorded before such parameters were refused."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "SEMMAE_EXPERIMENT"):
        monkeypatch.delenv(name, raising=False)
    address = SECRETS["STORE"]
    Path("dvc.yaml").write_text("stages: {prepare_data: {}}")
    Path("dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  prepare_data:\n    cmd: python -m stages.prepare_data\n    deps:\n"
        f"    - {{path: '{address}', hash: md5, md5: aaa, size: 1}}\n"
        f"    params:\n      params.yaml:\n        data.path: '{address}'\n        teacher: {{source: '{address}'}}\n"
    )
    Path("params.yaml").write_text(f"data: {{path: '{address}'}}\n# Preset: {address}\n")
    write_note(".semmae/records/prepare_data.json", {
        "stage": "prepare_data", "started": 1.0, "seconds": 1.0, "peak_mib": 1.0, "cpu_seconds": 1.0, "status": "FINISHED",
        "device": address, "slot": address,
    })  # fmt: skip
    written = replay()
    assert set(written.runs) == {"prepare_data"}
    with mlflow_client() as client:
        run = client.get_run(written.runs["prepare_data"])
    assert run.data.params["data.path"] == f"https://{MARK}@example.org/images?token={MARK}"
    assert CANARY.encode() not in (tmp_path / "tracking" / "mlflow.db").read_bytes()


@pytest.mark.parametrize("uri", [f"http://user:{CANARY}@127.0.0.1:1", f"postgresql+psycopg://user:{CANARY}@127.0.0.1:1/x",
                                 f"nonsense://user:{CANARY}@host"])  # fmt: skip
def test_replay__a_lost_server_is_named_without_its_password(tmp_path, monkeypatch, capsys, uri):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    Path("dvc.yaml").write_text("stages: {a: {}}")
    Path("dvc.lock").write_text("schema: '2.0'\nstages:\n  a:\n    cmd: a\n")
    assert replay().runs == {}
    said = capsys.readouterr()
    assert CANARY not in said.out + said.err and f"://{MARK}@" in said.out and "`semmae track`" in said.out


def test_registry__a_lost_server_is_named_without_its_password(tmp_path, monkeypatch):
    from pipeline.tracking.registry import _registry

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:{CANARY}@127.0.0.1:1")
    with pytest.raises(ValueError, match="nothing was registered") as error, _registry() as client:
        client.search_registered_models()
    assert CANARY not in str(error.value)


def test_run_page__is_a_link_without_a_password(monkeypatch):
    from pipeline.scheduling import services

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://user:{CANARY}@mlflow.example.org")
    assert (
        services.run_page("1", "2") == "https://mlflow.example.org/#/experiments/1/runs/2?workflowType=machine_learning"
    )
