"""Experiments in every kind of checkout, by a user whom git does not know, past hooks that fail."""

import os
import shutil
import subprocess

import pytest

from jobs.state import main_worktree
from pipeline import experiments, running, slots
from pipeline.execution import RAN
from pipeline.graph import Graph
from pipeline.parameters import changed
from pipeline.tracking.client import tracking_uri
from pipeline.tracking.writer import Replayed
from tests.pipeline.conftest import IDENTITY, make_small

STAGES = """
stages:
  lists:
    cmd: test -z "$PYTHONSAFEPATH" && mkdir -p out && ls mine > out/list
    deps: [mine]
    params: [seeds]
    outs: [out/list]
"""
HOOKS = ("post-checkout", "pre-commit", "commit-msg", "post-commit", "reference-transaction", "post-index-change")


def git(folder, *words):
    subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *words], cwd=folder, check=True, capture_output=True,
        env={**os.environ, **IDENTITY},
    )  # fmt: skip


def output(*words):
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.splitlines()


def submodule(origin, folder):
    (folder / "super").mkdir()
    git(folder / "super", "init", "-q")
    git(folder / "super", "submodule", "--quiet", "add", str(origin), "sub")
    return folder / "super" / "sub"


def separate(origin, folder):
    git(folder, "clone", "-q", "--separate-git-dir", str(folder / "elsewhere"), str(origin), "here")
    return folder / "here"


def bare(origin, folder):
    git(folder, "clone", "-q", "--bare", str(origin), "bare")
    git(folder / "bare", "worktree", "add", "-q", "--detach", str(folder / "one"))
    return folder / "one"


CHECKOUTS = {"plain": lambda origin, folder: origin, "submodule": submodule, "separate": separate, "bare": bare}


@pytest.fixture(scope="module")
def origin(tmp_path_factory, surroundings):
    return make_small(tmp_path_factory.mktemp("origin") / "small", STAGES)


@pytest.fixture(params=CHECKOUTS)
def checkout(request, origin, tmp_path, monkeypatch):
    """A checkout with images and hooks of its own, as the current folder of a user who told git nothing about himself."""
    folder = CHECKOUTS[request.param](origin, tmp_path)
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "image.txt").write_text("an image")
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in HOOKS:
        (hooks / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path / 'called'}\nexit 1\n")
        (hooks / name).chmod(0o755)
    git(folder, "config", "core.hooksPath", str(hooks))
    git(folder, "config", "user.useConfigOnly", "true")
    for name in [*IDENTITY, "EMAIL"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    for name, value in {"HOME": tmp_path, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(slots, "cores", lambda: ("0",))
    monkeypatch.setattr(running, "replay", lambda **_: Replayed())
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.family
def test_experiment__in_every_kind_of_checkout_lies_in_its_worktree_and_is_saved(checkout, tmp_path, monkeypatch):
    assert Graph().affected() == ["lists"]
    document = changed(changes={"seeds": [7]})[0]
    outcomes = running.run_plainly(document, name="one")
    assert [outcome.status for outcome in outcomes] == [RAN]
    assert output("for-each-ref", "--format=%(authoremail)", "refs/exps/*/*/one") == ["<semmae@localhost>"]
    assert experiments.prepare("two", document) == checkout / ".semmae" / "worktrees" / "two"
    assert Graph(checkout / ".semmae" / "worktrees" / "two").affected() == ["lists"]
    assert tracking_uri() == f"sqlite:///{checkout}/tracking/mlflow.db"
    assert not (tmp_path / "called").exists(), "no hook ran"
    assert {path.parent for path in tmp_path.rglob(".semmae") if ".semmae" not in path.parent.parts} <= {checkout}
    monkeypatch.chdir(checkout / ".semmae" / "worktrees" / "one")
    assert main_worktree() == checkout, "an experiment shares the state of the worktree that it was made from"


def test_main_worktree__of_a_linked_worktree_is_the_main_one_and_where_git_knows_none_itself(
    checkout, tmp_path, monkeypatch
):
    linked = tmp_path / "linked"
    git(checkout, "-c", "core.hooksPath=/dev/null", "worktree", "add", "-q", "--detach", str(linked))
    monkeypatch.chdir(linked)
    knows = main_worktree() == checkout
    assert knows or main_worktree() == linked
    assert knows == (checkout.name in ("small", "sub"))


def test_experiment__before_the_first_commit_and_in_a_folder_of_a_larger_repository_is_one_line(
    origin, tmp_path, monkeypatch
):
    folder = shutil.copytree(origin, tmp_path / "larger" / "small")
    shutil.rmtree(folder / ".git")
    monkeypatch.chdir(folder)
    git(folder, "init", "-q")
    with pytest.raises(ValueError, match="small: has no commit to start an experiment from; `git add -A && git commit"):
        experiments.prepare("try", changed(changes={"seeds": [7]})[0])
    shutil.rmtree(folder / ".git")
    git(folder.parent, "init", "-q")
    main_worktree.__globals__["_main_worktree"].cache_clear()
    with pytest.raises(ValueError, match="small: in the repository of .*larger; experiments need one of their own"):
        experiments.prepare("try", changed(changes={"seeds": [7]})[0])
    assert main_worktree() == folder and not (folder.parent / ".semmae").exists()
