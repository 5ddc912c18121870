"""Faults of a machine, each made really where a process may, else by what it would read."""

import os
import shutil
import sys
from importlib.machinery import PathFinder
from importlib.metadata import version
from types import SimpleNamespace

import psutil
import pytest

from pipeline.doctor import environment as examined
from pipeline.doctor.environment import environment
from tests.pipeline.doctor.conftest import git


def test_environment__of_this_machine_has_a_value_for_each_fact(tree):
    (tree / "constraints.txt").touch()
    facts = environment()
    assert all(fact.value and "could not be examined" not in fact.value for fact in facts.values()), facts
    assert facts["packages"] == ("as in constraints.txt", "") and sys.prefix in facts["python"].value


def test_environment__what_cannot_be_examined_says_why(tree):
    assert "constraints.txt" in environment()["packages"].value


def test_packages__of_other_versions_are_named_with_the_command_that_installs_the_pinned_ones(tree):
    (tree / "constraints.txt").write_text(f"psutil==0.1\ndvc=={version('dvc')}\nno-such-package==1.0\n")
    fact = environment()["packages"]
    assert fact.value.startswith(f"1 other than in constraints.txt: psutil {version('psutil')} (pinned 0.1)")
    assert "pip install --constraint constraints.txt" in fact.advice


def test_git__without_an_identity_or_a_repository_names_the_command(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("NAME", "EMAIL"):
        for role in ("AUTHOR", "COMMITTER"):
            monkeypatch.delenv(f"GIT_{role}_{name}", raising=False)
    assert "git config user.name NAME" in environment()["git"].advice
    git(tree, "config", "user.name", "Ada")
    git(tree, "config", "user.email", "ada@example.org")
    assert environment()["git"] == ("commits as Ada <ada@example.org>", "")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    shutil.rmtree(tree / ".git")
    assert "git init" in environment()["git"].advice


def test_proxies__are_shown_without_their_password(tree, monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "localhost")
    assert environment()["proxies"].value == "none"
    monkeypatch.setenv("http_proxy", "http://user:hunter22@proxy.example.org:3128")
    value = environment()["proxies"].value
    assert value == "http through http://***@proxy.example.org:3128"


@pytest.mark.parametrize(("limit", "used", "advice"), [(3 * 2**30, 2**29, False), (2**30, 2**29, True)])
def test_memory__is_that_of_the_tightest_cgroup(tree, tmp_path, monkeypatch, limit, used, advice):
    group = tmp_path / "groups" / "a"
    group.mkdir(parents=True)
    for folder, values in ((group, ("max", used)), (group.parent, (limit, used))):
        for name, value in zip(("memory.max", "memory.current"), values, strict=True):
            (folder / name).write_text(f"{value}\n")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 4096\n")
    monkeypatch.setattr(examined, "CGROUPS", group)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**33, total=2**34))
    fact = environment()["memory"]
    assert (
        fact.value == f"{(limit - used + 4096) / 2**30:.1f} of {limit / 2**30:.1f} GiB free"
        and bool(fact.advice) == advice
    )


def test_cache__on_a_file_system_without_links_to_the_tree_names_the_command(tree, monkeypatch):
    assert environment()["cache"] == (".dvc/cache: hardlink, copy", "")

    def refuse(*paths):
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(os, "link", refuse)
    fact = environment()["cache"]
    assert os.strerror(18) in fact.value and "dvc cache dir" in fact.advice


@pytest.mark.parametrize(("build", "driver", "advice"), [
    ("13.0", "13.0", ""), ("13.0", "12.4", "CUDA 13"), (None, "13.0", "--force-reinstall"), ("13.0", "", "no GPU is used until"),
])  # fmt: skip
def test_torch__and_a_driver_that_do_not_fit_are_named(tree, tmp_path, monkeypatch, build, driver, advice):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "version.py").write_text(f"cuda: Optional[str] = {build!r}\n")
    program = tmp_path / "nvidia-smi"
    words = f"| NVIDIA-SMI 570.1   Driver Version: 570.1   CUDA Version: {driver}     |" if driver else "no devices"
    program.write_text(f"#!/bin/sh\necho '{words}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(examined, "find_spec", lambda name: PathFinder.find_spec(name, [str(tmp_path)]))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fact = environment()["torch"]
    assert fact.value.startswith(version("torch")) and (advice in fact.advice if advice else not fact.advice)
