"""Commands from a sub-folder, from a download without `.git`, by a user whom the machine does not know, past foreign packages."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from config.params import load_params
from jobs.code import ROOMS
from tests.conftest import ROOT, call
from tests.pipeline.conftest import IDENTITY, make_small
from tests.pipeline.test_checkouts import STAGES

STRANGER = 12345
# Not of the files of others: they may be where only root may read, as Python itself.
AS_STRANGER = ["setpriv", "--reuid", str(STRANGER), "--regid", str(STRANGER), "--clear-groups",
               "--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch, surroundings):
    """A repository with images, as the current folder."""
    folder = make_small(tmp_path / "project", STAGES)
    (folder / "mine" / "image.txt").unlink()
    for name in ("cats", "dogs"):
        (folder / "mine" / name).mkdir()
        for image in "abc":
            Image.new("RGB", (8, 8)).save(folder / "mine" / name / f"{image}.png")
    monkeypatch.chdir(folder)
    return folder


def semmae(*words, before=(), **environment):
    """(exit code, output) of the command in the current folder, as its own process."""
    command = [*before, sys.executable, "-c", "from semmae import main; main()", *words]
    answer = subprocess.run(
        command, env=environment or None, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return answer.returncode, answer.stdout


def test_enter__a_command_in_a_sub_folder_finds_the_repository_and_paths_begin_where_one_stands(
    project, monkeypatch, capsys
):
    (project / "weights").write_bytes(b"weights")
    for words, get, expected in (
        (["use", "../cats"], lambda params: params.data.path, "mine/cats"),
        (["use", ".."], lambda params: params.data.path, "mine"),
        (["use", str(project / "mine")], lambda params: params.data.path, str(project / "mine")),
        (["start", "../../weights"], lambda params: params.pretrain.start, "weights"),
        (["teacher", "../../weights", "--architecture", "vit_small_patch16_224"],
         lambda params: params.teacher.source, "weights"),
        (["check"], lambda params: params.data.labels, ["class"]),
    ):  # fmt: skip
        monkeypatch.chdir(project / "mine" / "cats")
        assert call(monkeypatch, *words) == 0, capsys.readouterr().err
        assert get(load_params(project / "params.yaml")) == expected
    assert not (project / "mine" / "cats" / ".semmae").exists()


def test_enter__elsewhere_is_one_line_but_help_is_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in (["check"], ["preset", "quickstart"], ["run"]):
        assert call(monkeypatch, *words) == 1
        assert capsys.readouterr().err == (
            f"error: {tmp_path}: neither this folder nor one above it is a SemMAE repository; cd into one\n"
        )
    assert call(monkeypatch, "run", "--help") == 0
    assert list(tmp_path.iterdir()) == []


def test_check__a_download_without_git_is_one_line_whose_commands_mend_it(project, monkeypatch, capsys):
    shutil.rmtree(".git")
    for words in (["check"], ["status"], ["run"]):
        assert call(monkeypatch, *words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {project}: DVC and experiments need git: ")
    mends = line.split("`")[1]
    assert mends.startswith("git init && ")
    subprocess.run(mends, shell=True, check=True, capture_output=True, env={**os.environ, **IDENTITY})
    assert call(monkeypatch, "check") == 0 and call(monkeypatch, "run", "--dry") == 0
    assert "lists" in capsys.readouterr().out


def test_check__a_repository_of_somebody_else_gets_gits_own_remedy(project, monkeypatch, capsys):
    if os.getuid():
        pytest.skip("only root can give a folder away: a repository of another owner was not tested")
    give(project)
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    assert call(monkeypatch, "check") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"git config --global --add safe.directory {project}" in line and "git init" not in line


def give(folder):
    """Make everything in a folder the stranger's."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, STRANGER, STRANGER, follow_symlinks=False)


@pytest.mark.slow
@pytest.mark.parametrize("home", [None, "/"])
def test_run__works_for_a_user_without_name_and_home(project, home, monkeypatch):
    """And without an address of his: the experiment's commit has the tool's."""
    can = ["sh", "-c", '"$@" 2> /dev/null', "sh", *AS_STRANGER, sys.executable, "-c", ""]
    if subprocess.run(can, check=False).returncode:
        pytest.skip("setpriv cannot start Python as another user here: a user without a passwd entry was not tested")
    with tempfile.TemporaryDirectory() as place:
        # The folders of pytest are root's alone.
        os.chmod(place, 0o755)
        folder = shutil.copytree(project, Path(place) / "project")
        give(folder)
        monkeypatch.chdir(folder)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **({"HOME": home} if home else {})}
        code, output = semmae("run", "--name", "mine", before=AS_STRANGER, **environment)
        assert code == 0 and "1 stages in " in output and "warning" not in output.lower(), output
        assert (folder / "tracking" / "mlflow.db").stat().st_uid == STRANGER
        assert not (folder / "~").exists()
        monkeypatch.undo()


def test_main__packages_of_others_with_our_names_hide_nothing(project, tmp_path):
    for name in ROOMS:
        (tmp_path / "foreign" / name).mkdir(parents=True)
        (tmp_path / "foreign" / name / "__init__.py").write_text("raise SystemExit('foreign')\n")
    path = os.pathsep.join((str(tmp_path / "foreign"), str(ROOT)))
    assert semmae("check", **{**os.environ, "PYTHONPATH": path})[0] == 0
