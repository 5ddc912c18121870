import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from config.groups import LISTING
from config.presets import read_document, write_params
from pipeline import experiments, running
from pipeline.parameters import changed
from pipeline.tracking.writer import Replayed
from shards.files import read_json
from tests.conftest import call as call_semmae
from tests.pipeline.conftest import enter_copy, make_small

# `notes` leaves a record, as every stage of the project does. `waits` is there for one who terminates it.
STAGES = """
stages:
  notes:
    cmd: python -m stages.notes
    deps: [mine, stages/notes.py]
    outs: [out/notes]
  scales:
    cmd: cat mine/image.txt > out/scales; grep -q fine mine/image.txt || { echo 'not fine'; exit 3; }
    deps: [out/notes, mine]
    params: [seeds]
    outs: [out/scales]
"""
NOTES = """
import time
from pathlib import Path
from jobs.stage import run


def main():
    image = Path("mine/image.txt").read_text()
    print("begins", flush=True)
    if "wait" in image:
        time.sleep(600)
    Path("out").mkdir(exist_ok=True)
    Path("out/notes").write_text(image)


if __name__ == "__main__":
    run(main)
"""
UP_TO_DATE = "nothing to run: everything is up to date with parameters, code and data"
# The command in a process of its own, which prints what replay gets and what is imported at the end. A shell's background
# job ignores interrupts, and so would its children.
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pipeline import cli, running
from pipeline.tracking.writer import Replayed
running.replay = lambda **status: print("replayed", status, flush=True) or Replayed()
try:
    cli.main()
finally:
    print("imported", *sorted({"prefect", "mlflow", "torch"} & set(sys.modules)), flush=True)
"""


def start(folder, *words):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory, surroundings):
    """A repository after a first `semmae run`, and the output of that."""
    folder = make_small(
        tmp_path_factory.mktemp("commands"), STAGES, {"stages/__init__.py": "", "stages/notes.py": NOTES}
    )
    (folder / "mine" / "image.txt").write_text("a fine image")
    process = start(folder, "run")
    said, erred = process.communicate()
    assert process.returncode == 0, said + erred
    assert read_json(folder / ".semmae" / "records" / "notes.json")["status"] == "FINISHED"
    return folder, said, erred


@pytest.fixture
def small(ran, tmp_path, monkeypatch):
    """A copy of that repository for one test, as the current folder."""
    monkeypatch.setattr(running, "replay", lambda **_: Replayed())
    return enter_copy(ran[0], tmp_path / "small", monkeypatch)


@pytest.fixture
def call(small, monkeypatch, capsys):
    """Run a command of `semmae`: (exit code, lines, lines of errors)."""

    def call(*words):
        code = call_semmae(monkeypatch, *words)
        told = capsys.readouterr()
        return int(code or 0), told.out.splitlines(), told.err.splitlines()

    return call


def test_run__runs_what_is_needed_and_replays_it(ran):
    folder, said, erred = ran
    assert (folder / "out" / "scales").read_text() == "a fine image" and erred == ""
    lines = said.splitlines()
    assert {"[notes] Running stage 'notes':", "[notes] begins", "replayed {'status': 'FINISHED'}"} <= set(lines)
    assert lines[-3].startswith("2 stages in ") and lines[-3].endswith(": 2 ran")
    assert "git add" not in said and "dvc config" not in said, "DVC's advice is for those who call DVC"
    assert lines[-1] == "imported", "a plain run has no need of Prefect"


def test_run__with_nothing_to_do_is_one_line_at_once(small):
    process = start(small, "run")
    said, erred = process.communicate()
    assert said.splitlines() == [UP_TO_DATE, "imported"]
    assert (erred, process.returncode) == ("", 0)


def test_run__renews_a_listing_first_and_refuses_one_of_another_place(call, small):
    document = read_document()
    document["data"]["watch"] = LISTING
    write_params(document)
    assert call("run", "--dry") == (0, [UP_TO_DATE], [])
    (small / "mine" / "second.txt").write_text("another")
    assert "second.txt" not in (small / LISTING).read_text()
    call("run", "--dry")
    assert "second.txt" in (small / LISTING).read_text()
    document["data"]["path"] = "elsewhere"
    write_params(document)
    code, _, (line,) = call("run", "--dry")
    assert code == 1 and line.endswith("expected the listing of elsewhere; run `semmae use elsewhere`")


def test_run__dry_says_what_would_run_and_runs_nothing(call, small):
    assert call("run", "--dry") == (0, [UP_TO_DATE], [])
    (small / "mine" / "image.txt").write_text("another fine image")
    assert call("run", "--dry") == (0, ["notes", "scales"], [])
    assert call("run", "notes", "--dry") == (0, ["notes"], [])
    assert call("run", "--dry", "--force")[1] == ["notes", "scales"]
    assert (small / "out" / "notes").read_text() == "a fine image"


def test_run__dry_tells_what_runs_because_of_what_it_reads(call, small):
    with (small / "stages" / "notes.py").open("a") as file:
        file.write("# a comment\n")
    assert call("run", "--dry")[1] == ["notes", "scales (if its inputs change)"]


def test_run__dry_with_other_parameters_says_what_would_run_with_those(call, small):
    assert call("run", "--dry", "--set", "seeds=[5]") == (0, ["scales"], [])
    assert call("run", "--dry", "--set", "seeds=[0, 1]")[1] == [UP_TO_DATE]
    assert call("run", "--dry", "--name", "x")[1] == [UP_TO_DATE]
    assert experiments.experiments() == []
    assert "seeds: [0, 1]" in (small / "params.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "x.y=7"], "x.y: no such parameter; params.yaml names them all, as group.name"),
        (["--set", "pretrain.mask_ratio=7"], "pretrain.mask_ratio: got 7"),
        (["--set", "pretrain.mask_ratio"], "--set pretrain.mask_ratio: expected group.name=value"),
        (["--set", "seeds=[1"], "--set seeds=[1: [1 is neither number, text"),
        (["--set", "seeds=2020-01-01"], "--set seeds=2020-01-01: 2020-01-01 is neither number, text"),
        (["--arm", "nobody"], "nobody"),
        (["--seed", "-1"], "seeds"),
        (["--preset", "nonesuch"], "preset nonesuch: unknown; there are"),
        (["--name", "a b"], "experiment 'a b': use letters"),
        (["--preset", "quickstrt"], "preset quickstrt: unknown; did you mean quickstart?; there are"),
        (["zzz"], "zzz: no such stage; `dvc stage list` names them"),
        (["note"], "note: no such stage; did you mean notes?; `dvc stage list` names them"),
    ],
)
def test_run__a_mistake_is_one_line_and_exit_1_before_any_work(call, small, words, told):
    code, said, erred = call("run", *words)
    assert (code, said, len(erred)) == (1, [], 1)
    assert erred[0].startswith("error: ") and told in erred[0]
    assert experiments.experiments() == []


def test_run__a_failed_stage_is_shown_with_the_command_that_repeats_it(call, small):
    (small / "mine" / "image.txt").write_text("a poor image")
    code, said, erred = call("run")
    assert (code, erred) == (1, [])
    assert any(line.endswith("1 ran, 1 failed") for line in said)
    place = next(place for place, line in enumerate(said) if line.startswith("scales failed; the end of "))
    log = said[place].removeprefix("scales failed; the end of ").removesuffix(":")
    assert "not fine" in open(log).read() and "not fine" in said[place:]
    again = next(line for line in said if line.startswith("to repeat it: ")).removeprefix("to repeat it: ")
    answer = subprocess.run(["sh", "-c", again], capture_output=True, text=True, check=False)
    assert answer.returncode and "not fine" in answer.stdout
    assert shlex.split(again)[:2] == ["cd", str(small)]


def test_run__ends_with_the_comparison_and_its_run_where_a_server_shows_it(call, small, monkeypatch):
    tables = []
    monkeypatch.setattr("reports.table.print_summary", lambda root, mlflow: tables.append(root))
    monkeypatch.setattr(running, "COMPARISON_STAGE", "notes")
    monkeypatch.setattr(running, "replay", lambda **_: Replayed("1", "abc"))
    monkeypatch.setattr("pipeline.scheduling.services.last_experiment", lambda: "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:word@127.0.0.1:1")
    page = "http://127.0.0.1:1/#/experiments/1/runs/abc?workflowType=machine_learning"
    assert call("run", "--force")[1][-1] == f"this run    {page}" and tables == [Path()]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert not any(line.startswith("this run") for line in call("run", "--force")[1]), "no server"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, {143}), (signal.SIGINT, {1, 130})])
def test_run__what_ends_it_terminates_its_stages_in_order(small, number, codes):
    """SIGINT to the whole group, as a terminal sends it: the stage gets SIGTERM all the same, with time to save."""
    (small / "mine" / "image.txt").write_text(f"wait {os.getpid()} {number}")
    (small / ".semmae" / "records" / "notes.json").unlink(missing_ok=True)
    process = start(small, "run")
    while "begins" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode in codes
    assert "replayed {'status': 'KILLED'}" in said
    assert any("exited with 143" in line for line in said.splitlines())
    assert "1 cancelled" in said or "2 cancelled" in said
    assert read_json(".semmae/records/notes.json")["status"] == "KILLED"


def test_status__says_why_and_check_ends_with_1_where_anything_would_run(call, small):
    assert call("status", "--check")[::2] == (0, [])
    code, said, _ = call("status")
    assert (code, said[-1]) == (0, "nothing would run")
    text = (small / "params.yaml").read_text()
    (small / "params.yaml").write_text(text.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    code, said, _ = call("status", "--check")
    assert (code, said[-1]) == (1, "1 of 2 stages would run")
    assert not any("->" in line for line in said)
    code, said, _ = call("status")
    assert code == 0 and said[-2:] == ["scales: parameter seeds: [0, 1] -> [0, 1, 2]", "1 of 2 stages would run"]
    with open(small / "stages" / "notes.py", "a") as code:
        code.write("# changed\n")
    (small / "params.yaml").write_text(text)
    assert call("status")[1][-1] == "1 of 2 stages would run, 1 more if their inputs change"
    (small / "params.yaml").write_text(text.replace("val_share: 0.1", "val_share: 7"))
    code, _, erred = call("status", "--check")
    assert code == 1 and len(erred) == 1 and "data.val_share: got 7" in erred[0]


def test_explain__says_why_or_that_there_is_no_such_stage(call, small):
    assert call("explain", "notes")[:2] == (0, ["notes: would not run; why it ran the last time is not recorded here"])
    code, said, erred = call("explain", "nonesuch")
    assert (code, said, len(erred)) == (1, [], 1) and "nonesuch" in erred[0]


@pytest.fixture
def three(small):
    """The worktrees of a finished experiment, of one that was interrupted, and of one that is walked."""
    folders = {name: experiments.prepare(name, changed(seeds=[7])[0]) for name in ("done", "cut", "busy")}
    experiments._note("done", finished=1.0)
    with experiments.hold(folders["busy"]):
        yield folders


def test_gc__deletes_the_finished_ones_alone_and_only_after_a_yes(call, three, small, monkeypatch):
    code, said, _ = call("gc")
    assert code == 0 and {f"{name}: {status}, {three[name]}" for name, status in
                          (("done", "finished"), ("cut", "stopped"), ("busy", "running"))} <= set(said)  # fmt: skip
    assert said[-1] == "nothing deleted; with --yes: done"
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", lambda question: "1 worktree" not in question)
    assert "nothing deleted" in call("gc")[1][-1]
    assert all(folder.is_dir() for folder in three.values())
    assert f"deleted {three['done']}; `dvc exp apply done` restores its files" in call("gc", "--yes")[1]
    assert {name: folder.is_dir() for name, folder in three.items()} == {"done": False, "cut": True, "busy": True}
    assert (small / "mine" / "image.txt").read_text() == "a fine image"
    assert call("gc")[1][-1].startswith("nothing to delete: no experiment here is finished")


def test_gc__deletes_an_interrupted_one_by_its_name_and_none_that_runs(call, three):
    for name, why in (("busy", "cancel it first"), ("nonesuch", "no such worktree")):
        code, _, erred = call("gc", "cut", name, "--yes")
        assert code == 1 and len(erred) == 1 and name in erred[0] and why in erred[0]
        assert all(folder.is_dir() for folder in three.values())
    assert f"deleted {three['cut']}" in call("gc", "cut", "--yes")[1]
    assert {name: folder.is_dir() for name, folder in three.items()} == {"done": False, "cut": False, "busy": True}
