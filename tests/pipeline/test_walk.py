import os
import signal
import threading
import time

import pytest

from config.params import load_runtime
from config.presets import read_document, write_params
from pipeline import slots
from pipeline import walk as walk_module
from pipeline.execution import CANCELLED, FAILED, RAN, SKIPPED, UNCHANGED
from pipeline.observing import Observer
from pipeline.slots import CPU, GPU, Needs
from pipeline.walk import Walk, unchanged
from tests.conftest import ROOT
from tests.pipeline.conftest import digest_by_path, enter_copy, held_slots, make_small, marked, repro

# Each of the first two ends only when the other has begun. `obeys` does what mine/switch says.
STAGES = """
stages:
  left:
    meta: {device: gpu}
    cmd: &meet >-
      mkdir -p out; echo "device $CUDA_VISIBLE_DEVICES"; touch here-$DVC_STAGE; n=0;
      until [ -e here-left -a -e here-right ]; do sleep 0.05; n=$((n+1)); [ $n -lt 600 ] || exit 9; done;
      cat mine/image.txt > out/$DVC_STAGE
    deps: [mine/image.txt]
    outs: [out/left]
  right:
    meta: {device: gpu}
    cmd: *meet
    deps: [mine/image.txt]
    outs: [out/right]
  join:
    cmd: cat out/left out/right > out/join
    deps: [out/left, out/right, code.py]
    params: [seeds, compute.threads]
    outs: [out/join]
  obeys:
    cmd: >-
      mkdir -p out; cat mine/switch > out/obeys;
      case "$(cat mine/switch)" in off*) echo was told to; exit 3;; wait*) sleep $(cut -d' ' -f2 mine/switch); exit 1;; esac
    deps: [mine/switch]
    outs: [out/obeys]
  below:
    cmd: cp out/obeys out/below
    deps: [out/obeys]
    outs: [out/below]
  last:
    cmd: cat out/below out/join > out/last
    deps: [out/below, out/join]
    outs: [out/last]
"""
FILES = {"code.py": "", "mine/switch": "on"}
UPSTREAM = {
    "left": [], "right": [], "join": ["left", "right"], "obeys": [], "below": ["obeys"], "last": ["below", "join"],
}  # fmt: skip


class Heard(Observer):
    """Keeps (second, stage, what happened or the line)."""

    def __init__(self, heard):
        self.heard = heard

    def waiting(self, stage):
        self.line(stage, "waiting")

    def started(self, stage, device):
        self.line(stage, f"started on {device}")

    def line(self, stage, text):
        self.heard.append((time.monotonic(), stage, text))

    def ended(self, outcome):
        self.line(outcome.stage, outcome.status)


class Calls(Observer):
    def __init__(self, call):
        self.call = call

    def line(self, stage, text):
        self.call(text)


@pytest.fixture(scope="module")
def walked(tmp_path_factory, surroundings):
    """A repository after a walk: (folder, walk, outcomes, [(second, stage, line)])."""
    folder = make_small(tmp_path_factory.mktemp("walk"), STAGES, FILES)
    surroundings.chdir(folder)
    surroundings.setattr(slots, "cores", lambda: ("0", "1"))
    surroundings.setattr(slots, "gpus", lambda: ("4", "9"))
    heard = []
    walk = Walk(folder)
    outcomes = walk.run([Heard(heard)])
    return folder, walk, outcomes, heard


@pytest.fixture
def settled(walked, tmp_path, monkeypatch):
    """A copy of that repository for one test, as the current folder."""
    return enter_copy(walked[0], tmp_path / "small", monkeypatch)


@pytest.fixture(scope="module")
def sequential(tmp_path_factory, surroundings):
    """The same content where DVC itself ran one stage after the other."""
    folder = make_small(tmp_path_factory.mktemp("sequential"), STAGES, {**FILES, "here-left": "", "here-right": ""})
    repro(folder, "repro")
    return folder


def walk_of(folder, **options):
    return {outcome.stage: outcome for outcome in Walk(folder, **options).run()}


def statuses(outcomes):
    return {stage: outcome.status for stage, outcome in outcomes.items()}


def change(folder):
    """Give an image other content."""
    (folder / "mine" / "image.txt").write_text("another image")


def test_run__independent_stages_overlap_each_on_a_device_of_its_own(walked):
    """`left` and `right` end only when both have begun."""
    _, _, outcomes, heard = walked
    assert {outcome.stage: outcome.status for outcome in outcomes} == dict.fromkeys(UPSTREAM, RAN)
    devices = {stage: line.split()[1] for _, stage, line in heard if line.startswith("device ")}
    assert sorted(devices.values()) == ["4", "9"]
    assert {outcome.stage: outcome.device for outcome in outcomes if outcome.stage in devices} == {
        stage: f"gpu {device}" for stage, device in devices.items()
    }


def test_run__nothing_starts_before_what_it_reads_is_there(walked):
    heard = walked[3]
    first, last = {}, {}
    for second, stage, _ in heard:
        first.setdefault(stage, second)
        last[stage] = second
    assert set(first) == set(UPSTREAM)
    for stage, before in UPSTREAM.items():
        assert all(last[other] < first[stage] for other in before)


def test_run__gives_what_dvc_gives_one_after_the_other(walked, sequential):
    folder = walked[0]
    assert digest_by_path(folder) == digest_by_path(sequential)
    assert len(digest_by_path(folder)) == len(UPSTREAM)


def test_run__afterwards_dvc_finds_nothing_to_do(settled):
    walk = Walk(settled)
    walk.verify()
    assert "Running stage" not in (said := repro(settled, "repro")) and "up to date" in said
    assert [outcome.status for outcome in unchanged(walk.graph, walk.stages)] == [UNCHANGED] * len(UPSTREAM)


def test_run__what_failed_keeps_back_what_needs_it_and_nothing_else(settled):
    change(settled)
    (settled / "mine" / "switch").write_text("off")
    walk = Walk(settled)
    outcomes = {outcome.stage: outcome for outcome in walk.run()}
    assert statuses(outcomes) == {
        "left": RAN, "right": RAN, "join": RAN, "obeys": FAILED, "below": SKIPPED, "last": SKIPPED,
    }  # fmt: skip
    assert "was told to" in outcomes["obeys"].last_lines
    assert "was told to" in (walk.logs / "obeys.log").read_text().splitlines()
    with pytest.raises(ValueError, match="does not find everything done: it would run obeys, below, last; run"):
        walk.verify()
    assert walk.upstream("last") == ["below", "join"]
    assert Walk(settled).stages == ["obeys", "below", "last"], "the next walk goes on where this one ended"


def test_verify__does_not_run_what_it_finds(settled):
    (settled / "out" / "last").unlink()
    with pytest.raises(ValueError, match="it would run last; run"):
        Walk(settled).verify()
    assert not (settled / "out" / "last").exists()


@pytest.fixture
def interruptible():
    """An interrupt raises KeyboardInterrupt, also in a background job of a shell, which ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_walk__an_interrupt_ends_what_runs_and_is_raised_again(settled, mark, interruptible):
    (settled / "mine" / "switch").write_text(f"wait {mark}")
    walk = Walk(settled)
    assert set(walk.stages) == {"obeys", "below", "last"}

    def interrupt(line):
        if line.startswith("> "):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        walk.run([Calls(interrupt)])
    assert not marked(mark) and held_slots() == []
    assert {stage: outcome.status for stage, outcome in walk.finished.items()} == dict.fromkeys(walk.stages, CANCELLED)


def test_run__tells_of_each_stage_in_order(walked):
    told = {stage: [what for _, name, what in walked[3] if name == stage] for stage in UPSTREAM}
    for stage, first in told.items():
        assert first[0] == "waiting" and first[1].startswith("started on ") and first[-1] == RAN, stage
    assert {told["left"][1], told["right"][1]} == {"started on gpu 4", "started on gpu 9"}


def test_run__an_observer_that_fails_is_one_warning_and_changes_nothing(settled, capsys):
    change(settled)
    heard = []
    outcomes = Walk(settled, targets=["join"]).run([Calls(lambda text: 1 / 0), Heard(heard)])
    assert {outcome.status for outcome in outcomes} == {RAN} and len(heard) > 3 * len(outcomes)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning == "warning: Calls shows no more of this run: division by zero; the run goes on"


def test_walk__takes_what_targets_need_and_no_more(settled):
    change(settled)
    (settled / "mine" / "switch").write_text("on again")
    assert set(Walk(settled).stages) == set(UPSTREAM)
    assert set(Walk(settled, targets=["join"]).stages) == {"left", "right", "join"}
    walk = Walk(settled, targets=["below"])
    assert walk.stages == ["obeys", "below"]
    assert unchanged(walk.graph, walk.stages) == []


def test_walk__is_the_same_from_any_folder_and_runs_all_by_force(settled, monkeypatch, tmp_path):
    change(settled)
    here = Walk(settled, targets=["join"])
    monkeypatch.chdir(tmp_path)
    there = Walk(settled, targets=["join"])
    assert (there.stages, there.graph.changes.keys()) == (here.stages, here.graph.changes.keys())
    assert {name: list(stage.upstream) for name, stage in there.graph.stages.items()} == {
        name: UPSTREAM[name] for name in ("left", "right", "join")
    }
    assert set(Walk(settled, force=True).stages) == set(UPSTREAM)
    assert statuses(walk_of(settled, targets=["below"], force=True)) == {"obeys": RAN, "below": RAN}


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("dvc.lock", "schema: '2.0'\nstages:\n  a: [", r"dvc\.lock"),
        ("dvc.yaml", "stages: {}\nmore: 3\n", "dvc.yaml"),
        ("runtime.yaml", "workers: 1\n", r"runtime\.yaml: prefetch: missing"),
    ],
)
def test_walk__a_fault_is_reported_before_anything_runs(settled, name, content, fault):
    (settled / name).write_text(content)
    with pytest.raises(ValueError, match=fault):
        Walk(settled)


def test_needs__threads_are_as_the_parameters_say(settled):
    walk = Walk(settled)
    assert (walk.needs("left"), walk.needs("join")) == (Needs(GPU, 1), Needs(CPU, 1))
    document = read_document(settled / "params.yaml")
    document["compute"]["threads"] = 64
    write_params(document, settled / "params.yaml", preset="quickstart")
    wide = Walk(settled)
    assert (wide.needs("left"), wide.needs("join")) == (Needs(GPU, 1), Needs(CPU, 2))
    assert wide.params.compute.threads == 64, "the slots follow the parameters, and never the other way round"


def test_needs__workers_of_this_machine_count_and_those_of_a_cluster_elsewhere_do_not(settled):
    walk = Walk(settled)
    walk.graph.stages["join"].meta["sharded"] = True
    for changes, cores in (
        ({"shard_workers": 1}, 1),
        ({"shard_workers": 2}, 2),
        ({"shard_workers": 2, "engine": "ray"}, 2),
        ({"shard_workers": 2, "engine": "ray", "ray_address": "auto"}, 1),
    ):
        walk.runtime = load_runtime(ROOT / "runtime.yaml").model_copy(update=changes)
        assert (walk.needs("join"), walk.needs("below")) == (Needs(CPU, cores), Needs(CPU, 1))


def test_needs__of_what_trains_on_other_nodes_only_the_share_of_this_one(settled):
    walk = Walk(settled)
    walk.graph.stages["left"].meta["distributed"] = True
    for changes, expected in (
        ({}, Needs(GPU, 2)),
        ({"nodes": 2}, Needs(GPU, 1)),
        ({"launcher": "slurm", "nodes": 2}, Needs(CPU, 1)),
    ):
        walk.params = walk.params.model_copy(
            update={"compute": walk.params.compute.model_copy(update={"world_size": 2})}
        )
        walk.runtime = walk.runtime.model_copy(update=changes)
        assert walk.needs("left") == expected
    assert walk.needs("right") == Needs(GPU, 1)


def test_job__is_the_same_where_the_same_is_computed(settled, sequential):
    ours, theirs = Walk(settled), Walk(sequential)
    assert ours.root != theirs.root
    before = {stage: ours.job(stage) for stage in UPSTREAM}
    assert before == {stage: theirs.job(stage) for stage in UPSTREAM}
    assert len(set(before.values())) == len(UPSTREAM)

    for name, old, new in (("params.yaml", "seeds: [0, 1]", "seeds: [0, 2]"), ("code.py", "", "changed = True\n")):
        content = (settled / name).read_text()
        (settled / name).write_text(content.replace(old, new) if old else new)
        changed = Walk(settled)
        assert {stage for stage in UPSTREAM if changed.job(stage) != before[stage]} == {"join"}
        (settled / name).write_text(content)

    lock = (settled / "dvc.lock").read_text()
    (settled / "dvc.lock").write_text(lock.replace(digest_by_path(settled)["out/left"], "0" * 32))
    assert {stage for stage in UPSTREAM if ours.job(stage) != before[stage]} == {"join"}, "its input is another"


def test_job__of_the_digests_of_code_only_those_of_its_own_stage_count(tmp_path, surroundings, monkeypatch):
    stages = """
stages:
  digest_code:
    cmd: mkdir -p code; cp mine/one code/one.json; cp mine/other code/other.json
    deps: [mine]
    outs: [code]
  one:
    cmd: cp code/one.json out
    deps: [code/one.json]
    outs: [out]
"""
    folder = make_small(tmp_path / "small", stages, {"mine/one": "1", "mine/other": "2"})
    monkeypatch.chdir(folder)

    def job(name, text):
        (folder / "mine" / name).write_text(text)
        repro(folder, "repro", "digest_code")
        return Walk(folder).job("one")

    before = job("one", "1")
    assert job("other", "3") == before
    assert job("one", "4") != before


def test_job__waits_until_dvc_has_written_its_lock(settled, monkeypatch):
    walk = Walk(settled)
    before, content = walk.job("join"), (settled / "dvc.lock").read_text()
    (settled / "dvc.lock").write_text("")
    timer = threading.Timer(0.3, (settled / "dvc.lock").write_text, [content])
    timer.start()
    assert walk.job("join") == before
    timer.join()
    monkeypatch.setattr(walk_module, "WRITE_SECONDS", 0.1)
    (settled / "dvc.lock").write_text(content[:-100])
    with pytest.raises(ValueError, match=r"dvc\.lock"):
        walk.job("join")
