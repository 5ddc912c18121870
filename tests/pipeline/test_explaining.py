import contextlib
import hashlib
import shutil

import pytest

from jobs.cluster.work import Task
from jobs.dvc_lock import stage_entries
from jobs.kept_shards import KeptShards
from jobs.notes import write_note
from pipeline import explaining
from pipeline.explaining import differences, lines_about
from pipeline.tracking.executions import executions, records_folder
from shards.arrays import ArrayShardWriter
from tests.pipeline.conftest import make_small, repro

STAGES = """
stages:
  first:
    cmd: mkdir -p out; cat mine/image.txt > out/first
    deps: [mine, code.py]
    params: [seeds, pretrain, compute.threads]
    outs: [out/first]
  second:
    cmd: cp out/first out/second
    deps: [out/first]
    outs: [out/second]
  other:
    cmd: echo other > out/other
    deps: [code.py]
    outs: [out/other]
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory, surroundings):
    """A repository in which everything is done."""
    folder = make_small(tmp_path_factory.mktemp("explaining"), STAGES, {"code.py": "before = True\n"})
    surroundings.chdir(folder)
    repro(folder, "repro")
    return folder


@contextlib.contextmanager
def changed(path, old, new):
    """A file in which `new` stands for `old`."""
    before = path.read_text()
    assert old in before
    # A file of its own: an out is one with its object in the cache, and with other outs that say the same.
    path.unlink()
    path.write_text(before.replace(old, new))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        path.write_text(before)


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()[:12]


def test_lines_about__a_parameter_from_what_to_what(small):
    with (
        changed(small / "params.yaml", "seeds: [0, 1]", "seeds: [0, 1, 2]"),
        changed(small / "params.yaml", "mask_ratio: 0.75", "mask_ratio: 0.5"),
        changed(small / "params.yaml", "local_crops: 0", "local_crops: 1"),
    ):
        assert lines_about("first") == [
            "would run: first: parameter seeds: [0, 1] -> [0, 1, 2]",
            "would run: first: parameter pretrain.mask_ratio: 0.75 -> 0.5",
        ]
        assert lines_about("other") == ["other: would not run; why it ran the last time is not recorded here"]


def test_lines_about__an_input_and_what_stands_downstream_of_it(small):
    recorded = next(dep["md5"] for dep in stage_entries(small / "dvc.lock")["first"]["deps"] if dep["path"] == "mine")
    with changed(small / "mine" / "image.txt", "an image", "another"):
        (line,) = lines_about("first")
        before, after = line.removeprefix("would run: first: input mine modified: ").split(" -> ")
        assert before == recorded[:12] != after and len(after) == 12
        assert lines_about("second") == [f"upstream {line}"]
    assert "would not run" in lines_about("second")[0]


def test_lines_about__an_output_that_is_gone_or_was_changed(small):
    with changed(small / "out" / "second", "an image", "touched"):
        assert lines_about("second") == [
            f"would run: second: output out/second modified: {md5('an image')} -> {md5('touched')}"
        ]
        (small / "out" / "second").unlink()
        assert lines_about("second") == ["would run: second: output out/second deleted"]


def test_lines_about__a_new_input_and_a_new_command(small):
    with changed(small / "dvc.yaml", "deps: [code.py]", "deps: [code.py, mine]"):
        (line,) = lines_about("other")
        assert line.startswith("would run: other: input mine new: ")
    with changed(small / "dvc.yaml", "echo other >", "echo more >"):
        assert lines_about("other") == ["would run: other: changed command"]


def test_lines_about__a_stage_that_never_ran(small):
    with changed(small / "dvc.yaml", "  other:", "  young:\n    cmd: echo\n    deps: [out/second]\n  other:"):
        assert lines_about("young")[0].startswith("would run: young: never ran here")


@pytest.fixture
def noted(small):
    """Write down an execution as a replay into MLflow does."""
    yield lambda name, **facts: write_note(executions() / f"{name}.json", facts)
    shutil.rmtree(executions(), ignore_errors=True)


def test_lines_about__why_it_ran_the_last_time(small, noted):
    entry = dict(stage_entries(small / "dvc.lock")["first"])
    before = {**entry, "params": {"params.yaml": {**entry["params"]["params.yaml"], "seeds": [3]}}}
    noted("first", entry=entry, previous=before)
    assert lines_about("first") == ["would not run; it ran the last time: parameter seeds: [3] -> [0, 1]"]
    noted("first", entry=entry, previous={})
    assert lines_about("first") == ["first: would not run; it ran the last time because it had never run here"]
    noted("first", entry=entry, previous=entry)
    assert lines_about("first") == ["would not run; it ran the last time: forced, or its outs were missing"]
    noted("first", entry=before, previous={})
    assert "restored from the cache" in lines_about("first")[0]


@pytest.fixture
def streaming(small, monkeypatch):
    """`other` streams over five image shards; two are kept. Returns what changes one of its inputs."""
    names = [f"{number}.parquet" for number in range(5)]
    monkeypatch.setattr(explaining, "_plan", lambda stage: ("job", [Task(name, name, 1, {}) for name in names]))
    with KeptShards("other", "job") as kept:
        for name in names[:2]:
            with ArrayShardWriter(kept.place(name), columns={}, header={}, shard_rows=1):
                pass
    with changed(small / "dvc.yaml", "    cmd: echo other >", "    meta: {sharded: true}\n    cmd: echo other >"):
        yield lambda: changed(small / "code.py", "before", "after")
    shutil.rmtree(kept.folder.parent)


def test_lines_about__how_many_shards_a_streaming_stage_would_compute(streaming):
    with streaming():
        assert lines_about("other")[1:] == [
            "other: would compute 3 of 5 shards and reuse 2; the others are new, or hold other images"
        ]


def test_lines_about__no_shard_is_kept_of_the_same_inputs(streaming, monkeypatch):
    monkeypatch.setattr(explaining, "_plan", lambda stage: ("another job", [Task("a", "a", 1, {})]))
    with streaming():
        assert lines_about("other")[1:] == [
            "other: would compute 1 of 1 shards and reuse 0; no shard is kept of the same code, parameters and models"
        ]


def test_lines_about__shards_that_cannot_be_known_are_a_line(streaming, monkeypatch):
    def fail(stage):
        raise ValueError("data/shards: no manifest")

    monkeypatch.setattr(explaining, "_plan", fail)
    with streaming():
        assert lines_about("other")[1:] == [
            "other: how many shards it would compute is not known: data/shards: no manifest"
        ]


def test_lines_about__how_many_shards_its_last_run_reused(small, noted):
    entry = dict(stage_entries(small / "dvc.lock")["first"])
    noted("first", entry=entry, previous=entry, reuse="12 of 14 shards are reused; the others are new")
    assert lines_about("first")[-1] == "first: in its last run 12 of 14 shards are reused; the others are new"
    write_note(records_folder() / "first.json", {"reuse": "13 of 14 shards are reused"})
    assert lines_about("first")[-1] == "first: in its last run 13 of 14 shards are reused"
    (records_folder() / "first.json").unlink()


def test_lines_about__is_of_the_tree_that_is_named(small, noted, monkeypatch, tmp_path):
    noted("second", entry=dict(stage_entries(small / "dvc.lock")["second"]), previous={})
    expected = lines_about("second")
    monkeypatch.chdir(tmp_path)
    assert lines_about("second", small) == expected
    assert "never run here" in expected[0]


@pytest.mark.parametrize("name", ["nonesuch", "first@3", "out/first"])
def test_lines_about__an_unknown_stage_is_one_line(small, name):
    with pytest.raises(ValueError, match=name.replace("/", ".")) as told:
        lines_about(name)
    assert len(str(told.value).splitlines()) == 1


def entries(deps):
    return [{"path": path, "md5": md5} for path, md5 in deps.items()]


def test_differences__names_what_changed_and_what_came_and_went():
    before = {
        "cmd": "a", "deps": entries({"x": "1" * 32, "gone.py": "2" * 32, "code/a.json": "5" * 32}),
        "params": {"params.yaml": {"group": {"kept": 1, "old": 2, "lr": 0.1}}, "other.yaml": {"a": 1}},
    }  # fmt: skip
    after = {
        "cmd": "b", "deps": entries({"x": "3" * 32, "come": "4" * 32, "code/a.json": "6" * 32}),
        "params": {"params.yaml": {"group": {"kept": 1, "lr": 0.2, "new": False}}},
    }  # fmt: skip
    assert list(differences(before, after)) == [
        "command: a -> b",
        "input x: 111111111111 -> 333333333333",
        "code gone.py: 222222222222 -> absent",
        "code code/a.json: 555555555555 -> 666666666666",
        "input come: absent -> 444444444444",
        "parameter group.old: 2 -> absent",
        "parameter group.lr: 0.1 -> 0.2",
        "parameter group.new: absent -> False",
        "parameter a: 1 -> absent",
    ]
    assert list(differences(before, before)) == []
