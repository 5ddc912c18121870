"""The README says what is there: its commands, tables, links and code are checked against the project."""

import contextlib
import re
import subprocess

import numpy as np
import pytest
import typer

from config.params import read_yaml
from config.presets import preset_names
from pipeline.cli import app
from shards.mask_cache import MaskCache
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(heading):
    """Rows, as lists of cells, of the table whose first header cell is `heading`."""
    lines = iter(README.splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            next(lines)
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    return rows
                rows.append([cell.strip() for cell in row.strip("|").split("|")])
            return rows
    raise AssertionError(f"no table {heading}")


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_readme__the_two_commands_are_targets():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("run", "test"):
        assert re.search(rf"^make {target}\b", README, re.M)
        assert re.search(rf"^{target}:", makefile, re.M)


def test_readme__every_semmae_command_exists():
    known = set(typer.main.get_command(app).commands)
    assert set(re.findall(r"semmae ([a-z]+)\b", README)) <= known


def test_readme__the_stages_are_those_of_dvc_yaml():
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    assert table("stage") == [[f"`{name}`", stage["desc"]] for name, stage in stages.items()]


def test_readme__the_presets_are_those_that_exist():
    with contextlib.chdir(ROOT):
        existing = preset_names()
    assert sorted(name for row in table("preset") for name in names(row[0])) == existing


def test_readme__the_map_names_every_folder():
    listed = {names(row[0])[0].rstrip("/") for row in table("folder")}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert listed == {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")}


def test_readme__what_comes_out_is_an_out(world):
    for row in table("what"):
        path = names(row[1])[0].rstrip("/")
        assert (world / path).exists() or path == "tracking/mlflow.db", path


@pytest.mark.parametrize("page", sorted(path for path in ROOT.glob("**/*.md") if ".venv" not in path.parts))
def test_pages__links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    assert "@@" not in text


def test_readme__five_lines_read_the_part_labels(world):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(code.split("\n\n", 1)[1].strip().splitlines()) == 5
    scope = {}
    with contextlib.chdir(world):
        exec(code, scope)
        ids, labels = MaskCache("masks/learned").shard(0)
    assert np.array_equal(scope["labels"], labels)
    assert np.array_equal(scope["table"]["id"].to_numpy(), ids)
