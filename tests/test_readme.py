"""README and docs agree with the project: commands, tables, files, links, pictures and code."""

import contextlib
import re
import subprocess
import sys

import numpy as np
import pytest
import typer
from ruamel.yaml import YAML

from config.params import read_yaml
from config.presets import check, compose, preset_names
from images.sources.masks import check_values, labels_of
from images.sources.splits import SPLIT_WORDS
from jobs.code import ROOMS
from pipeline.cli import app
from shards.mask_cache import MaskCache
from tests.conftest import ROOT

README, ARCHITECTURE, IMAGES = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/architecture.md", "docs/images.md")
)
PAGES = sorted(path for path in ROOT.glob("**/*.md") if not {".venv", ".semmae"} & set(path.parts))


def table(heading, text=README):
    """Rows, as lists of cells, of the table whose first header cell is `heading`."""
    lines = iter(text.splitlines())
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


def test_pages__every_make_command_is_a_target():
    makefile = (ROOT / "Makefile").read_text()
    commands = {name for page in PAGES for name in re.findall(r"^make ([\w-]+)|`make ([\w-]+)", page.read_text(), re.M)}
    assert {"run", "test", "test-all"} <= (named := {"".join(names) for names in commands})
    assert named <= set(re.findall(r"^([\w-]+):", makefile, re.M))


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


def anchors(text):
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)", text, re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages__links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
        assert not anchor or anchor in anchors((page.parent / target).read_text(encoding="utf-8")), anchor


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/results.md"])
def test_pages__files_that_they_name_exist(page):
    named = re.findall(r"`((?:\w+/)+\w+\.(?:py|yaml))`", (ROOT / page).read_text(encoding="utf-8"))
    assert [path for path in named if "VERB_NOUN" not in path and not (ROOT / path).exists()] == []


def test_pages__every_picture_is_shown_on_one():
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    assert {path.resolve() for path in (ROOT / "docs" / "pictures").iterdir()} == shown


def test_architecture__rooms_are_those_of_the_import_law():
    assert tuple(names(row[0])[0].rstrip("/") for row in reversed(table("room", ARCHITECTURE))) == ROOMS


def test_architecture__its_picture_is_drawn_from_the_imports(tmp_path):
    command = [sys.executable, "docs/draw_architecture.py", str(tmp_path / "picture.png")]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_readme__five_lines_read_the_part_labels(world):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(code.split("\n\n", 1)[1].strip().splitlines()) == 5
    scope = {}
    with contextlib.chdir(world):
        exec(code, scope)
        cache = MaskCache("masks/learned")
        ids, labels = map(np.concatenate, zip(*map(cache.shard, range(cache.num_shards)), strict=True))
    assert np.array_equal(scope["labels"], labels)
    assert np.array_equal(scope["table"]["id"].to_numpy(), ids)


def test_images__the_words_for_splits_are_those_of_the_code():
    (row,) = (row for row in table("your files", IMAGES) if "The words for splits are" in row[1])
    words = row[1].partition("The words for splits are")[2].partition("in any case")[0]
    assert set(names(words)) == set(SPLIT_WORDS)


@pytest.mark.parametrize("row", table("values in the masks", IMAGES), ids=lambda row: row[0])
def test_images__mappings_of_mask_values_are_valid_and_mean_what_the_page_says(row):
    """What stands for other mappings in the table is read by the parameters' own check."""
    document = compose("quickstart")
    document["segment"]["sets"] = ["camvid"]
    for text in names(row[2]):
        key, _, value = text.partition(": ")
        group, name = key.split(".")
        document[group][name] = YAML(typ="safe", pure=True).load(value)
        check(document, "docs/images.md")
    values = [int(word) for word in re.findall(r"\b\d+\b", row[0])]
    if "background" in row[1] and values == [0, 255]:
        assert labels_of(values, {}) == {0: 0, 255: 1}
    if values == [1, 2, 3]:
        with pytest.raises(ValueError, match=re.escape(names(row[2])[0])):
            check_values(np.bincount(values, minlength=256), labels_of(values, {}), parts=True)
