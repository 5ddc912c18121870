"""What a shell completes a word to, asked as bash asks."""

import os
import subprocess
import sys

import pytest

from config.params import load_params
from pipeline import completions
from tests.conftest import ROOT, expand
from tests.conftest import call as call_semmae

# The command, which a shell asks; to stderr goes what it has loaded that takes seconds.
COMMAND = """
import sys
from pipeline.cli import main
sys.argv = ["semmae"]
try:
    main()
finally:
    print(*sorted({"torch", "dvc", "prefect", "mlflow"} & set(sys.modules)), file=sys.stderr)
"""


def test_completion__in_a_shell_loads_neither_torch_nor_dvc():
    asked = {"_SEMMAE_COMPLETE": "complete_bash", "COMP_WORDS": "semmae run --arm raw", "COMP_CWORD": "3"}
    words = [sys.executable, "-c", COMMAND]
    answer = subprocess.run(words, cwd=ROOT, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert (answer.stdout.split(), answer.stderr.strip()) == (["raw_attention"], "")


def test_stages__are_those_of_the_graph_and_its_matrices(monkeypatch):
    monkeypatch.chdir(ROOT)
    labels = [label for label, *_ in expand(params=load_params())]
    groups = {label.partition("@")[0] for label in labels}
    offered = completions.stages()
    assert set(labels) <= set(offered) and len(offered) == len(set(offered))
    assert {name for name in offered if "@" in name} == {label for label in labels if "@" in label}
    assert groups <= set(offered)


def test_completions__offer_what_the_files_name(monkeypatch):
    monkeypatch.chdir(ROOT)
    params = load_params()
    assert set(completions.arms()) == set(params.arms.definitions)
    assert f"pretrain.batch_size={params.pretrain.batch_size}" in completions.changes()
    assert "quickstart" in completions.presets()


@pytest.mark.parametrize("name", ["arms", "changes", "presets", "stages", "jobs"])
@pytest.mark.parametrize("text", [None, "", "[", "arms: 3", "stages: {a: {matrix: 3}}"])
def test_completions__are_none_where_files_are_missing_or_damaged(tmp_path, monkeypatch, name, text):
    monkeypatch.chdir(tmp_path)
    for file in ("params.yaml", "dvc.yaml") if text is not None else ():
        (tmp_path / file).write_text(text)
    assert name == "changes" or getattr(completions, name)() == []


def test_version__is_that_of_the_project(monkeypatch, capsys):
    assert call_semmae(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == "semmae 0.1.0\n"
