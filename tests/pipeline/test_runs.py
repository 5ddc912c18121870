import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from pipeline.runs import print_runs, runs
from tests.pipeline.conftest import make_small

STAGES = """
stages:
  compare:
    cmd: mkdir -p report; cp scores.json report/metrics.json
    deps: [scores.json]
    params: [seeds, arms, pretrain]
    metrics:
    - report/metrics.json
"""
SCORES = {f"{arm}/linear_accuracy/{part}": value for arm, mean in (("semmae", 0.75), ("mae", 0.5))
          for part, value in (("mean", mean), ("se", 0.0125), ("high", 0.9))}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory, surroundings):
    """A commit with two experiments: other seeds, and another number; then a change in the tree."""
    files = {"scores.json": json.dumps(SCORES)}
    folder = make_small(tmp_path_factory.mktemp("runs") / "small", STAGES, files)
    params = folder / "params.yaml"
    original = params.read_text()

    def dvc(*words):
        subprocess.run([sys.executable, "-m", "dvc", *words, "-q"], cwd=folder, check=True)

    for name, old, new in (
        ("more", "seeds: [0, 1]", "seeds: [0, 1, 2]"),
        ("less", "mask_ratio: 0.75", "mask_ratio: 0.5"),
    ):
        assert old in original
        params.write_text(original.replace(old, new))
        dvc("repro")
        dvc("exp", "save", "--name", name)
    params.write_text(original.replace("epochs: 4", "epochs: 5"))
    return folder


@pytest.mark.slow
def test_runs__are_this_tree_its_commit_and_experiments_with_what_each_changes(saved):
    every = list(runs(saved))
    by_name = {run.name.strip(): run for run in every}
    assert [run.name for run in every[:2]] == ["workspace", "main"] and set(by_name) == {
        "workspace",
        "main",
        "more",
        "less",
    }
    assert dict(by_name["more"].changes) == {"seeds": [0, 1, 2]}
    assert set(by_name["less"].changes.values()) == {0.5} and "pretrain.mask_ratio" in by_name["less"].changes
    assert by_name["main"].changes == {} and by_name["workspace"].changes["pretrain.epochs"] == 5
    assert by_name["more"].metrics == SCORES and by_name["more"].problem == ""


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 200])
def test_print_runs__shows_arms_with_their_leading_accuracies(saved, width):
    console = Console(width=width, file=io.StringIO())
    print_runs(saved, console)
    lines = console.file.getvalue().splitlines()
    assert lines[0].split()[:3] == ["run", "linear", "probe"]
    assert ["semmae", "75.0", "±", "1.2"] in [line.split()[:4] for line in lines]
    assert all("…" not in line for line in lines), "nothing is cut"
    assert sum("raw_attention" in line for line in lines) == 4, "without a score it is a row all the same"
    text = console.file.getvalue()
    assert "pretrain.mask_ratio=0.5" in text and "seeds 0, 1, 2" in text and "seeds=" not in text
