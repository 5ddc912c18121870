import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

from config.names import EXPERIMENT
from config.params import read_yaml
from jobs.state import state_folder
from pipeline import experiments, running, worktree
from pipeline.execution import FAILED, RAN
from pipeline.experiments import FINISHED, RUNNING, STOPPED, draft, hold, is_walked, prepare
from pipeline.graph import Graph
from pipeline.parameters import changed
from pipeline.tracking.writer import Replayed
from tests.pipeline.conftest import enter_copy, make_small, repro

# `reads` is the same in all experiments; it notes outside of every tree that it ran. `scales` fails while $FORBID is there.
STAGES = """
stages:
  reads:
    cmd: python -m stages.reads
    deps: [mine, stages/reads.py, parts/word.py, parts/new.py]
    outs: [out/reads]
    metrics: [metrics.json]
  scales:
    cmd: test ! -e "$FORBID"; cp out/reads out/scales && sed -n '/^seeds/,/^pre/p' params.yaml >> out/scales; test ! -e "$FORBID"
    deps: [out/reads]
    params: [seeds]
    outs: [out/scales]
"""
READS = """
import os
from pathlib import Path
from parts.word import word
from config.params import read_yaml

with open(os.environ["COUNTS"], "a") as file:
    file.write("reads\\n")
Path("out").mkdir(exist_ok=True)
image = Path(read_yaml("params.yaml")["data"]["path"], "image.txt").read_text()
Path("out/reads").write_text(f"{word()} {image}\\n")
Path("metrics.json").write_text('{"length": %d}\\n' % len(image))
"""
FILES = {
    "stages/__init__.py": "", "stages/reads.py": READS, "parts/__init__.py": "",
    "parts/word.py": "def word():\n    return 'committed'\n",
    ".gitignore": "/out/\n/.semmae/\n/mine/\n/metrics.json\n__pycache__/\n",
}  # fmt: skip
# An experiment from a terminal, without MLflow.
RUNNING_ONE = """
import json, sys
from pipeline import parameters, running, slots
from pipeline.tracking.writer import Replayed
running.replay = lambda **_: Replayed()
slots.cores = lambda: ("0", "1")
document, origin = parameters.changed(changes=json.loads(sys.argv[2]))
outcomes = running.run_plainly(document, name=sys.argv[1], preset=origin)
raise SystemExit(not all(outcome.is_done for outcome in outcomes))
"""


@pytest.fixture(scope="module")
def main(tmp_path_factory, surroundings):
    """A user's tree in the middle of work: a changed module, a new one that git does not know, images that it never will."""
    folder = make_small(tmp_path_factory.mktemp("experiments") / "main", STAGES, FILES)
    (folder / "parts" / "word.py").write_text(
        "from parts.new import new\n\n\ndef word():\n    return 'changed ' + new\n"
    )
    (folder / "parts" / "new.py").write_text("new = 'and new'\n")
    return folder


def enter(main, folder, monkeypatch):
    """A copy of the tree at `folder`, as the current one, and its files that count and forbid."""
    enter_copy(main, folder, monkeypatch)
    monkeypatch.setenv("COUNTS", str(folder.parent / "counts"))
    monkeypatch.setenv("FORBID", str(folder.parent / "forbid"))
    monkeypatch.setattr(running, "replay", lambda **_: Replayed())
    return folder


@pytest.fixture
def here(main, tmp_path, monkeypatch):
    """A copy of the tree for one test, which must not change it."""
    folder = enter(main, tmp_path / "main", monkeypatch)
    before = content(folder)
    yield folder
    assert content(folder) == before


def content(folder):
    """All that a user sees of a tree: what git says of it, and the bytes of every file that is not DVC's or ours."""
    git = [["status", "--porcelain=v2", "--branch"], ["diff"], ["stash", "list"], ["ls-files", "--stage"]]
    found = {" ".join(words): output("git", *words, folder=folder) for words in git}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not {".git", ".dvc", ".semmae", "__pycache__"} & set(path.relative_to(folder).parts):
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def output(*words, folder=None):
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout


def other(**changes):
    """Parameters with changes, as the command line gives them."""
    return changed(changes=changes)[0]


def worktrees():
    return [
        line for line in output("git", "worktree", "list", "--porcelain").splitlines() if line.startswith("worktree")
    ]


@pytest.fixture(scope="module")
def two(main, tmp_path_factory):
    """A tree in which two experiments ran at the same time: (tree, name -> seeds, its content before, what they printed)."""
    with pytest.MonkeyPatch.context() as patch:
        folder = enter(main, tmp_path_factory.mktemp("two") / "main", patch)
        before, wanted = content(folder), {"first": [3], "second": [4, 5]}
        processes = {
            name: subprocess.Popen(
                [sys.executable, "-c", RUNNING_ONE, name, json.dumps({"seeds": seeds})],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for name, seeds in wanted.items()
        }  # fmt: skip
    said = {name: process.communicate()[0] for name, process in processes.items()}
    assert {name: process.returncode for name, process in processes.items()} == {"first": 0, "second": 0}, said
    return folder, wanted, before, said


@pytest.mark.slow
def test_run_plainly__two_experiments_at_once_end_with_their_own_results(two):
    main, wanted, before, said = two
    assert content(main) == before, "the user's tree is as it was, to the byte"
    assert not (main / "out").exists() and not (main / "dvc.lock").exists()
    for name, seeds in wanted.items():
        folder = main / ".semmae" / "worktrees" / name
        assert (folder / "out" / "scales").read_text().splitlines() == [
            "changed and new an image", "seeds:", *(f"- {seed}" for seed in seeds), "pretrain:",
        ]  # fmt: skip
        assert read_yaml(folder / "params.yaml")["seeds"] == seeds
        assert f"experiment {name}: `semmae runs` lists it, `dvc exp apply {name}` puts it here" in said[name]
    assert (main.parent / "counts").read_text().splitlines() == ["reads"], "what both need was computed once"
    assert sum("1 restored, 1 ran" in text for text in said.values()) == 1
    assert sum("2 ran" in text for text in said.values()) == 1


@pytest.mark.slow
def test_run_plainly__experiments_are_dvcs_own(two):
    main = two[0]
    refs = output("git", "for-each-ref", "--format=%(refname)", "refs/exps", folder=main).split()
    head = output("git", "rev-parse", "HEAD", folder=main).strip()
    assert {f"refs/exps/{head[:2]}/{head[2:]}/{name}" for name in ("first", "second")} <= set(refs)
    shown = repro(main, "exp", "show", "--csv")
    assert {"first", "second"} <= {word for line in shown.splitlines() for word in line.split(",")}


@pytest.mark.slow
def test_run_plainly__an_experiment_can_be_applied_to_the_main_tree(two, tmp_path, monkeypatch):
    """With all that it was made of: then nothing would run there."""
    applied = shutil.copytree(two[0], tmp_path / "main", symlinks=True)
    shutil.rmtree(applied / ".semmae")
    monkeypatch.chdir(applied)
    repro(applied, "exp", "apply", "second")
    assert "- 4\n- 5\n" in (applied / "out" / "scales").read_text()
    assert read_yaml("params.yaml")["seeds"] == [4, 5]
    assert (applied / "parts" / "new.py").read_text() == "new = 'and new'\n"
    assert "changed" in (applied / "parts" / "word.py").read_text()
    assert Graph().affected() == []


@pytest.mark.slow
def test_prepare__a_finished_experiment_is_not_run_again(two, monkeypatch):
    monkeypatch.chdir(two[0])
    assert {one.name: one.status for one in experiments.experiments()}.items() >= {"first": FINISHED}.items()
    with pytest.raises(ValueError, match="experiment first: finished; choose another name"):
        prepare("first", other(seeds=[3]))
    assert Graph(state_folder() / "worktrees" / "first").affected() == []


@pytest.mark.slow
def test_run_plainly__what_was_interrupted_goes_on_by_its_name(here, capsys):
    (here.parent / "forbid").touch()
    outcomes = running.run_plainly(other(seeds=[7]), name="broken")
    (here.parent / "forbid").unlink()
    assert [outcome.status for outcome in outcomes][-1] == FAILED
    said = capsys.readouterr().out
    folder = here / ".semmae" / "worktrees" / "broken"
    assert f"experiment broken in {folder}" in said and "rerun with --name broken: training resumes" in said
    assert [one.status for one in experiments.experiments()] == [STOPPED]
    assert "broken" not in output("git", "for-each-ref", "refs/exps")

    with pytest.raises(ValueError, match="broken: lies in .* with other parameters; choose another name") as told:
        running.run_plainly(other(seeds=[8]), name="broken")
    assert len(str(told.value).splitlines()) == 1
    outcomes = running.run_plainly(other(seeds=[7]), name="broken")
    assert [(outcome.stage, outcome.status) for outcome in outcomes] == [("scales", RAN)]
    assert [one.status for one in experiments.experiments()] == [FINISHED]
    assert "broken" in output("git", "for-each-ref", "refs/exps")


def test_prepare__a_worktree_that_is_half_made_is_made_anew(here, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(worktree, "_link_inputs", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare("half", other(seeds=[1]))
    folder = prepare("half", other(seeds=[2]))
    assert read_yaml(folder / "params.yaml")["seeds"] == [2]
    assert (folder / "mine" / "image.txt").read_text() == "an image"
    assert (folder / "parts" / "new.py").read_bytes() == (here / "parts" / "new.py").read_bytes()
    experiments._note("half", finished=1.0)
    shutil.rmtree(folder)
    assert prepare("half", other(seeds=[3])) == folder, "somebody removed the folder"
    (half,) = experiments.experiments()
    assert half.status == STOPPED
    experiments.remove(half)
    assert not folder.exists() and f"worktree {folder}" not in worktrees()
    assert (here / "mine" / "image.txt").exists()


def test_prepare__a_tree_whose_files_were_only_touched_has_no_changes(main, tmp_path, monkeypatch):
    """`git stash create` fails there without a word."""
    enter(main, tmp_path / "main", monkeypatch)
    output("git", "checkout", "-q", "parts/word.py")
    os.utime("params.yaml", (1, 1))
    folder = prepare("touched", other(seeds=[1]))
    assert "committed" in (folder / "parts" / "word.py").read_text()


def test_prepare__code_is_of_the_tree_in_which_one_stands(here, tmp_path, monkeypatch):
    linked = tmp_path / "linked"
    output("git", "worktree", "add", "-q", "--detach", str(linked))
    (linked / "mine").mkdir()
    (linked / "parts" / "word.py").write_text("linked = True\n")
    (linked / "parts" / "new.py").touch()
    monkeypatch.chdir(linked)
    folder = prepare("from-linked", other(seeds=[1]))
    assert folder.parent == here / ".semmae" / "worktrees"
    assert (folder / "parts" / "word.py").read_text() == "linked = True\n"


@pytest.mark.parametrize(
    "name",
    ["", "a b", "../x", "a/b", ".x", "-x", "a..b", "a.", "x.lock", "é", "a~b", "a" * 62, "workspace", "main", "HEAD"],
)
def test_prepare__a_name_that_git_or_dvc_would_refuse_is_refused_before_any_work(here, name):
    before = worktrees()
    with pytest.raises(ValueError, match=r"experiment .*: (use letters|the name means something else)") as told:
        prepare(name, other(seeds=[1]))
    assert len(str(told.value).splitlines()) == 1
    assert worktrees() == before


@pytest.mark.parametrize("name", ["a", "lr0.1", "A_b-c.d", "quickstart-1128-101500", "a" * 61, "a.b.c", "x.locked"])
def test_name__what_it_allows_git_allows(name):
    assert re.fullmatch(EXPERIMENT, name)
    assert subprocess.run(["git", "check-ref-format", f"refs/exps/ab/cd/{name}"], check=False).returncode == 0


@pytest.fixture
def images_outside(here):
    (here.parent / "images").mkdir(exist_ok=True)
    (here.parent / "images" / "image.txt").write_text("outside")
    return here.parent / "images"


def test_prepare__a_relative_path_out_of_the_repository_means_the_same_place(here, images_outside):
    folder = prepare("outside", other(**{"data.path": "../images"}))
    assert (folder / ".." / "images" / "image.txt").read_text() == "outside"
    assert "images" not in [one.name for one in experiments.experiments()]
    with pytest.raises(ValueError, match="experiment images: the name means something else"):
        prepare("images", other(seeds=[1]))
    assert prepare("outside", other(**{"data.path": "../images"})) == folder
    experiments.remove(experiments.experiments()[0])
    assert (images_outside / "image.txt").exists()


def test_prepare__an_absolute_path_is_left_alone_and_one_that_leads_too_far_is_refused(here, images_outside):
    folder = prepare("absolute", other(**{"data.path": str(images_outside)}))
    assert read_yaml(folder / "params.yaml")["data"]["path"] == str(images_outside)
    far = os.path.relpath(images_outside.parent.parent, here)
    with pytest.raises(ValueError, match=rf"{far}: leads out of the repository"):
        prepare("far", other(**{"data.path": far}))


def test_hold__one_walk_in_a_tree(here, tmp_path):
    assert not is_walked(tmp_path)
    with hold(tmp_path):
        assert is_walked(tmp_path)
        with pytest.raises(ValueError, match=f"a walk in {tmp_path}: another process"):
            hold(tmp_path)
    assert not is_walked(tmp_path)


def test_hold__who_only_looks_is_never_taken_for_a_walk(here, tmp_path, monkeypatch):
    hold(tmp_path).close()
    flock, has_locked = fcntl.flock, threading.Event()

    def slow(file, operation):
        flock(file, operation)
        if threading.current_thread() is looker and operation & fcntl.LOCK_NB:
            has_locked.set()
            time.sleep(0.3)

    looker = threading.Thread(target=is_walked, args=(tmp_path,))
    monkeypatch.setattr(fcntl, "flock", slow)
    looker.start()
    assert has_locked.wait(10)
    hold(tmp_path).close()
    looker.join()


def test_place_for__a_tree_that_is_walked_is_not_touched_and_not_removed(here):
    folder = prepare("walked", other(seeds=[1]))
    (folder / "out").mkdir()
    (folder / "out" / "reads").write_text("half")
    with hold(folder):
        with pytest.raises(ValueError, match="a walk in .*walked: another process"):
            running.place_for(other(seeds=[1]), name="walked", preset="")
        assert (folder / "out" / "reads").read_text() == "half"
        (one,) = experiments.experiments()
        assert one.status == RUNNING
        with pytest.raises(ValueError, match="a walk runs in"):
            experiments.remove(one)
    experiments.remove(one)
    assert not folder.exists()


def test_draft__is_gone_when_it_was_looked_at(here):
    before = worktrees()
    with draft(other(seeds=[9])) as folder:
        assert set(Graph(folder).affected()) == {"reads", "scales"}
        assert read_yaml(folder / "params.yaml")["seeds"] == [9]
    assert worktrees() == before and list((state_folder() / "worktrees").glob("*")) == []
