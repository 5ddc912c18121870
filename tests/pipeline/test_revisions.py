"""Two commits of a world that DVC has recorded."""

import contextlib
import io
import shutil
import subprocess

import pytest
from dvc.repo import Repo
from rich.console import Console

from config.presets import read_document, write_params
from pipeline.revisions import print_changes
from tests.conftest import run_stage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def history(world, tmp_path_factory):
    """Two commits: the second has another confidence, and the results of it."""
    folder = tmp_path_factory.mktemp("history") / "world"
    shutil.copytree(world, folder, symlinks=True)

    def commit(message):
        with contextlib.chdir(folder), Repo() as repo:
            repo.commit(force=True)
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        for words in (["add", "-A"], [*identity, "commit", "-qm", message]):
            subprocess.run(["git", *words], cwd=folder, check=True)

    commit("first")
    document = read_document(folder / "params.yaml")
    document["compare"]["mask_images"] = 7
    write_params(document, folder / "params.yaml")
    run_stage(folder, "stages.compare")
    commit("second")
    return folder


def told(folder, *revisions):
    out = io.StringIO()
    with contextlib.chdir(folder):
        print_changes(*revisions, Console(file=out, width=120))
    return out.getvalue()


def test_print_changes__names_what_differs_and_nothing_else(history):
    text = told(history, "HEAD~1", "HEAD")
    assert "compare.mask_images" in text
    assert "-13" in text.replace("−", "-"), "20 before, 7 after"
    assert "hidden_ratio_std" in text
    assert "data and code: the same" in text
    assert "teacher.lr" not in text
    assert "linear_accuracy" not in text


def test_print_changes__the_workspace_against_its_commit_is_the_same(history):
    text = told(history, "HEAD", "workspace")
    for title in ("parameters", "data and code", "results"):
        assert f"{title}: the same in HEAD and workspace" in text


def test_print_changes__an_unknown_revision_is_one_line(history):
    with pytest.raises(ValueError, match="nonsense: .*name a commit or experiment") as caught:
        told(history, "nonsense", "HEAD")
    assert "\n" not in str(caught.value)
