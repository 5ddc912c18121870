import pytest
from dvc.repo import Repo

from config.params import read_yaml
from jobs import dvc_lock
from pipeline.graph import Graph
from tests.conftest import ROOT


def test_stage_entries__a_truncated_lock_is_named(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages:\n  a:\n    cmd: [")
    with pytest.raises(ValueError, match=r"dvc\.lock"):
        dvc_lock.stage_entries(tmp_path / "dvc.lock")
    assert dvc_lock.stage_entries(tmp_path / "none.lock") == {}


def test_stage_names__are_those_of_dvc():
    names = dvc_lock.stage_names(read_yaml(ROOT / "dvc.yaml")["stages"], read_yaml(ROOT / "params.yaml"))
    with Repo(str(ROOT)) as repo:
        assert sorted(names) == sorted(stage.name for stage in repo.index.stages)


def test_graph__what_dvc_refuses_is_one_line_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "dvc.yaml").write_text("stages:\n  a:\n    cmd: true\n")
    with pytest.raises(ValueError, match=r"dvc.yaml' validation failed \(.*cmd") as told:
        Graph()
    assert len(str(told.value).splitlines()) == 1
