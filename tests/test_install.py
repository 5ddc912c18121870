"""docs/install.md, the image's recipe and pyproject.toml agree; none names the address of a package index."""

import re
import subprocess
import tomllib

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [line.rpartition(" ")[2] for line in PROJECT["classifiers"]]
PAGE, RECIPE = ((ROOT / name).read_text() for name in ("docs/install.md", "Dockerfile"))


def test_pythons__are_those_of_the_page_the_image_and_the_makefile():
    (row,) = re.findall(r"^\| Python \| (.*?);", PAGE, re.M)
    assert re.findall(r"\d\.\d+", row) == PYTHONS
    assert set(re.findall(r"FROM python:([\d.]+)", RECIPE)) <= set(PYTHONS)
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert f"sys.version_info < ({PYTHONS[0].replace('.', ', ')})" in (ROOT / "Makefile").read_text()


def test_extras__that_are_installed_exist():
    named = {name for group in re.findall(r"\.\[([\w,]+)\]", PAGE + RECIPE) for name in group.split(",")}
    assert named and named <= set(PROJECT["optional-dependencies"])


def test_recipe__names_no_index_and_ends_without_root():
    assert "://" not in RECIPE
    assert set(re.findall(r"https?://[^\s/)]+", PAGE)) == {"https://pytorch.org"}
    assert re.findall(r"^(?:USER|CMD).*", RECIPE, re.M) == ["USER semmae", 'CMD ["make", "run"]']


def test_image__its_environment_behind_a_link_leaves_the_tree_clean(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    (tmp_path / ".venv").symlink_to("/opt/venv")
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert status.stdout == "?? .gitignore\n"
