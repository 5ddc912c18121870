"""A finished tiny world that DVC has recorded, a process that runs stages in forks, and the table of what was tried."""

import contextlib
import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from dvc.repo import Repo

from shards.files import write_text
from tests.conftest import ROOT, recorded_copy
from tests.pipeline.conftest import make_small, surroundings  # noqa: F401

# Outcome of a case that must not be: damaged bytes were used, or results became others, and nothing was said.
SILENT = "SILENT CORRUPTION"
CASES = Counter()
STAGES = """
stages:
  make:
    cmd: >-
      mkdir -p out history && cp mine/image.txt out/made && echo '{"size": 8, "part": 0.375}' > out/metrics.json &&
      echo '[{"step": 1, "loss": 0.9}, {"step": 2, "loss": 0.7}]' > history/make.json
    deps: [mine/image.txt]
    params: [probe, seeds]
    outs: [out/made, history/make.json]
    metrics: [out/metrics.json]
  last:
    cmd: cat out/made out/made > out/last
    deps: [out/made]
    outs: [out/last]
"""


@pytest.fixture(scope="session")
def recorded(world, tmp_path_factory):
    """A copy of the world whose outs DVC has committed."""
    return recorded_copy(world, tmp_path_factory.mktemp("recorded") / "world")


@pytest.fixture
def place(recorded, tmp_path):
    """A copy of it that a test may change, without git and DVC's cache: for stages that are run by hand."""
    return copy_of(recorded, tmp_path / "world")


def copy_of(recorded, target):
    ignored = shutil.ignore_patterns(".git", "cache", "tmp")
    return Path(shutil.copytree(recorded, target, symlinks=True, ignore=ignored))


# What the stages of the small repository make.
OUTS = ("out/made", "out/metrics.json", "out/last")


@pytest.fixture(scope="module")
def original(tmp_path_factory, surroundings):  # noqa: F811
    """A small repository whose stages have run."""
    folder = make_small(tmp_path_factory.mktemp("original") / "small", STAGES)
    with contextlib.chdir(folder), Repo() as repo:
        repo.reproduce()
    return folder


@pytest.fixture
def small(original, tmp_path, monkeypatch):
    """A copy of it, in which we are."""
    folder = shutil.copytree(original, tmp_path / "small", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


class Zygote:
    """See `tests.chaos.zygote`."""

    def __init__(self, *modules):
        command = [sys.executable, "-m", "tests.chaos.zygote", *modules]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert json.loads(self.process.stdout.readline()) == "ready"

    def __call__(self, folder, run, *arguments, fault="", at=0):
        request = {
            "folder": str(folder),
            "run": run,
            "arguments": [str(word) for word in arguments],
            "fault": fault,
            "at": at,
        }
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="session")
def zygote():
    started = Zygote()
    yield started
    started.end()


@pytest.fixture(scope="session")
def tries(request):
    """How many cases a cell has: 0 is all that there are."""
    return request.config.getoption("--chaos")


@pytest.fixture(scope="session")
def tell():
    """Put the outcome of a case into the table."""

    def told(fault, artefact, outcome, count=1):
        CASES[fault, artefact, outcome] += count
        assert outcome != SILENT, (fault, artefact)

    return told


def chosen(count, tries, key):
    """The numbers 1..count, or `tries` of them by seed."""
    return (
        range(1, count + 1) if not tries else sorted(random.Random(key).sample(range(1, count + 1), min(tries, count)))
    )


def table():
    """Markdown: a row for each fault and artefact, and what became of it how often."""
    cells = dict.fromkeys((fault, artefact) for fault, artefact, _ in CASES)
    lines = ["| fault | artefact | cases | outcome |", "|---|---|---|---|"]
    for fault, artefact in cells:
        found = {outcome: count for (*cell, outcome), count in CASES.items() if tuple(cell) == (fault, artefact)}
        told = ", ".join(outcome if len(found) == 1 else f"{outcome} ({count})" for outcome, count in found.items())
        lines.append(f"| {fault} | {artefact} | {sum(found.values())} | {told} |")
    silent = sum(count for (*_, outcome), count in CASES.items() if outcome == SILENT)
    return "\n".join([*lines, "", f"{len(cells)} cells, {CASES.total()} cases, {silent} silent corruptions."]) + "\n"


def pytest_sessionfinish(session):
    path = session.config.getoption("--table")
    if path and CASES:
        write_text(path, table())
