"""Two commits of a small repository that DVC has recorded."""

import io
import shutil
import subprocess

import pytest
from rich.console import Console

from config.presets import read_document, write_params
from jobs.dvc_lock import stage_entries
from pipeline.explaining import differences, lines_about
from pipeline.revisions import print_changes
from shards.files import write_json
from tests.pipeline.conftest import make_small, repro

pytestmark = pytest.mark.slow
STAGES = """
stages:
  digest_code:
    cmd: mkdir code; cp mine/one.json code
    deps: [mine]
    outs: [code]
  prepare_data:
    cmd: mkdir -p out; cp mine/image.txt out/shards
    deps: [mine/image.txt]
    outs: [out/shards]
  one:
    cmd: cp code/one.json out/one
    deps: [code/one.json, out/shards]
    params: [compare]
    outs: [out/one]
"""


@pytest.fixture(scope="module")
def history(tmp_path_factory, surroundings):
    """(entry of stage `one` before, after, why it would run): another parameter, file of code and result, as commits."""
    folder = make_small(tmp_path_factory.mktemp("history") / "small", STAGES)
    surroundings.chdir(folder)

    def commit(code, metrics):
        write_json("mine/one.json", {name: digit * 32 for name, digit in code.items()})
        repro(folder, "repro", "digest_code")
        reasons = lines_about("one")
        repro(folder, "repro")
        write_json("report/metrics.json", metrics)
        for words in (["add", "-A"], ["commit", "-qm", "results"]):
            subprocess.run(["git", *words], check=True)
        return stage_entries(folder / "dvc.lock")["one"], reasons

    before, _ = commit({"a.py": "1", "b.py": "2"}, {"kept": 1.0, "accuracy": 0.5, "accuracy/se": 0.1})
    document = read_document()
    document["compare"]["mask_images"] = 7
    write_params(document, "params.yaml")
    return before, *commit({"a.py": "3", "b.py": "2", "c.py": "4"}, {"kept": 1.0, "accuracy": 0.25, "accuracy/se": 0.2})


def told(*revisions):
    print_changes(*revisions, Console(file=(out := io.StringIO()), width=120))
    return out.getvalue().replace("−", "-")


def test_print_changes__names_what_differs_and_nothing_else(history):
    rows = [row for row in map(str.split, told("HEAD~1", "HEAD").splitlines()) if len(row) == 4 and row[0] != "name"]
    assert rows == [
        ["compare.mask_images", "1000", "7", "-993"],
        ["code", "a.py", "1" * 12, "3" * 12],
        ["code", "c.py", "absent", "4" * 12],
        ["accuracy", "0.5", "0.25", "-0.25"],
    ]


def test_print_changes__the_workspace_against_its_commit_is_the_same(history):
    text = told("HEAD", "workspace")
    for title in ("parameters", "data and code", "results"):
        assert f"{title}: the same in HEAD and workspace" in text


def test_print_changes__an_unknown_revision_is_one_line(history):
    with pytest.raises(ValueError, match="nonsense: .*name a commit or experiment") as caught:
        told("nonsense", "HEAD")
    assert "\n" not in str(caught.value)


def test_explain__names_the_files_of_code_whose_digests_the_cache_has(history):
    before, after, reasons = history
    parameter = "parameter compare.mask_images: 1000 -> 7"
    a, c = f"{'1' * 12} -> {'3' * 12}", f"absent -> {'4' * 12}"
    assert sorted(reasons) == [
        f"would run: one: {line}" for line in (f"code a.py modified: {a}", f"code c.py modified: {c}", parameter)
    ]
    assert list(differences(before, after)) == [f"code a.py: {a}", f"code c.py: {c}", parameter]
    shutil.rmtree(".dvc/cache")
    assert next(differences(before, after)).startswith("code code/one.json: ")
