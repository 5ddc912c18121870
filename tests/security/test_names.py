"""Hostile values for everything that becomes a path, a word of a command or a key: by params.yaml, command, form, argv."""

import contextlib
import copy
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from config.names import NAME, arguments, shown, stage_name
from config.params import load_params, read_yaml
from config.presets import check, compose, write_params
from pipeline import cli
from pipeline.walk import Walk
from tests.conftest import ROOT, make_world, run_stage

LOOKALIKE = "s\u0435mmae"
HOSTILE = [
    "../x", "..", ".", "/etc/x", "a/b", "a\\b", "a\0b", "a\nb", "mae\n", "-rf", "--force", "x" * 300, "$(id)", "`id`",
    "; rm", "a;b", "a b", "a|b", "a&b", "a>b", "a'b", 'a"b', "*", "~", LOOKALIKE, "\uff4dae", "\u202eeam", "", " mae",
    "a\x1b[2Jb", "a${seeds}", "con:",
]  # fmt: skip
ALL = [pytest.param(value, id=shown(value, 20)) for value in HOSTILE]


@pytest.fixture(scope="module")
def document():
    with contextlib.chdir(ROOT):
        return compose("quickstart")


def refusal(call, *arguments, **named):
    """The line that a call refuses with."""
    with pytest.raises(ValueError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def files_of(folder):
    """Everything below a folder but what git, DVC and the state folder keep."""
    return {path for path in folder.rglob("*") if not {".git", ".dvc", ".semmae"} & set(path.parts)}


@pytest.mark.parametrize("value", ALL)
@pytest.mark.parametrize("key", ["arms.names", "transfer.sets", "segment.sets", "compare.baseline", "arms"])
def test_params__a_hostile_name_is_refused_by_its_key(document, key, value):
    changed = copy.deepcopy(document)
    group, _, name = key.partition(".")
    if key == "arms":
        changed["arms"][value] = changed["arms"]["mae"]
    elif key == "compare.baseline":
        changed["compare"]["baseline"] = value
    else:
        changed[group][name] = [value]
        changed["arms"].setdefault(value, changed["arms"]["mae"]) if group == "arms" else None
    assert refusal(check, changed, "params.yaml").startswith(f"params.yaml: {key}")


@pytest.mark.parametrize("value", ["0; id", "$(id)", "1e3", "-1", -1, 1.5, True, None, [0], {"a; id": 0}])
def test_params__a_seed_is_a_number(document, value):
    changed = copy.deepcopy(document)
    changed["seeds"] = [value]
    assert refusal(check, changed, "params.yaml").startswith("params.yaml: seeds.0: ")


@pytest.mark.parametrize("value", ["a\0b", "a\nb", "a\x1b[2Jb", "a\u2028b", "a\x7fb", "x" * 5000, "http://u:c4n4ry@h/"])
@pytest.mark.parametrize("key", [
    "data.path", "data.watch", "data.image_column", "data.label_column", "teacher.source", "teacher.architecture",
    "pretrain.start",
])  # fmt: skip
def test_params__free_text_holds_no_control_character_and_no_secret(document, key, value):
    changed = copy.deepcopy(document)
    group, name = key.split(".")
    changed[group][name] = value
    line = refusal(check, changed, "params.yaml")
    assert line.startswith(f"params.yaml: {key}: got ") and "c4n4ry" not in line and line.isprintable()


@pytest.mark.parametrize("value", ["/data/Übersicht", "~/Bilder 2", "-rf", "../images", "данные/птицы", "a'b;$(id)"])
def test_params__a_folder_may_be_called_what_people_call_it(document, value):
    changed = copy.deepcopy(document)
    changed["data"]["path"] = changed["data"]["watch"] = value
    check(changed, "params.yaml")


@given(st.from_regex(NAME, fullmatch=True))
def test_name__what_is_allowed_is_harmless_in_a_path_a_shell_and_a_pattern(name):
    assert Path("arms", name).resolve() == Path("arms").resolve() / name
    assert shlex.quote(name) == name == re.escape(name) and name.isascii()
    assert len(f".{name}-2147483647.parquet.4194304.tmp".encode()) < 255


@given(st.text(max_size=60))
def test_arguments__a_word_is_a_name_or_refused(word):
    is_name = re.fullmatch(NAME, word) is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["stages/select_masks.py", word])
        if is_name:
            assert arguments("ARM") == [word]
        else:
            assert refusal(arguments, "ARM").startswith("select_masks: ARM: got ")


@pytest.mark.parametrize("seed", ["00", "+1", "-1", "1_0", " 1", "1\n", "\u0661", "1.0", "0x1", "", "99999999999"])
def test_arguments__a_seed_has_one_spelling(monkeypatch, seed):
    monkeypatch.setattr(sys, "argv", ["probe", "mae", seed])
    assert refusal(arguments, "ARM", "SEED").startswith("probe: SEED: got ")
    monkeypatch.setattr(sys, "argv", ["probe", "mae", "10"])
    assert arguments("ARM", "SEED") == ["mae", 10]


STAGES = {
    "stages.prepare_data": ["KIND", "SET"], "stages.select_masks": ["ARM"], "stages.pretrain": ["ARM", "SEED"],
    "stages.probe": ["ARM", "SEED"], "stages.finetune": ["ARM", "SEED"], "stages.transfer": ["SET", "ARM", "SEED"],
    "stages.segment": ["SET", "ARM", "SEED"], "stages.linear_mae": ["OPTIMIZER", "ARM", "SEED"],
}  # fmt: skip
GOOD = {"ARM": "mae", "SEED": "0", "SET": "birds", "OPTIMIZER": "lars", "KIND": "transfer"}


@pytest.fixture
def bare(tmp_path, monkeypatch, document):
    """A folder with parameters and nothing else."""
    write_params(document, tmp_path / "params.yaml")
    (tmp_path / "runtime.yaml").write_text((ROOT / "runtime.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("module", STAGES)
def test_stages__a_hostile_argument_is_refused_by_its_kind_before_any_file(bare, monkeypatch, module):
    stage, kinds, before, params = importlib.import_module(module), STAGES[module], files_of(bare), load_params()
    main = stage.main
    monkeypatch.setattr(stage, "load_params", lambda: params)
    for kind in kinds:
        for value in HOSTILE:
            given = [value if kind == one else GOOD[one] for one in kinds]
            monkeypatch.setattr(sys, "argv", [module, *given])
            assert f": {kind}: got " in refusal(main), (kind, value)
        monkeypatch.setattr(sys, "argv", [module, *(GOOD[one] for one in kinds), "more"])
        assert "arguments, expected" in refusal(main)
    assert files_of(bare) == before


def test_stages__each_that_takes_arguments_is_tested_here():
    sources = {path.stem: path.read_text() for path in (ROOT / "stages").glob("*.py")}
    assert {f"stages.{name}" for name, source in sources.items() if "arguments(" in source} == set(STAGES)
    assert not [name for name, source in sources.items() if re.search(r"argv\[(?!0\])", source)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("hostile") / "world")


QUICK = [
    "run --arm=VALUE", "run --set transfer.sets=[VALUE]", "run --set VALUE=1", "run --set compare.baseline=VALUE",
    "run --name=VALUE", "run --preset=VALUE", "export --format timm -- VALUE", "export --format=VALUE mae-0",
    "register -- VALUE", "download -- VALUE", "preset -- VALUE", "teacher -- VALUE", "start -- VALUE", "use -- VALUE",
]  # fmt: skip
# What the command, or YAML, takes for something that it may be.
MEANT = {
    "run --preset=VALUE": {""}, "run --name=VALUE": {""}, "use -- VALUE": {"..", ".", ""},
    "run --set transfer.sets=[VALUE]": {"", "mae\n", " mae"}, "run --set compare.baseline=VALUE": {"mae\n", " mae"},
}  # fmt: skip


@pytest.mark.parametrize("command", QUICK)
def test_command__a_hostile_value_is_one_line_and_leaves_nothing(repository, monkeypatch, capsys, command):
    monkeypatch.chdir(repository)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Walk, "run", lambda *_: pytest.fail("a walk began"))
    before, around = files_of(repository), set(repository.parent.iterdir())
    for value in HOSTILE:
        if value in MEANT.get(command, ()) or "\0" in value:  # which no argument of a process can hold
            continue
        monkeypatch.setattr(sys, "argv", ["semmae", *(word.replace("VALUE", value) for word in command.split(" "))])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert ended.value.code == 1, (command, value, said)
        (line,) = said.err.splitlines()
        assert line.startswith("error: ") and line.isprintable() and len(line) < 1000, (command, value)
    assert files_of(repository) == before and set(repository.parent.iterdir()) == around


@pytest.mark.parametrize("command", ["run -- VALUE", "explain -- VALUE", "compare -- VALUE"])
@pytest.mark.parametrize("value", ["../x", "/etc/x", "x" * 300, "$(id)", "-rf", LOOKALIKE, "*"])
def test_command__a_stage_or_revision_that_is_none_is_one_line(repository, monkeypatch, capsys, command, value):
    monkeypatch.chdir(repository)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(sys, "argv", ["semmae", *(word.replace("VALUE", value) for word in command.split(" "))])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 1 and len(said.err.splitlines()) == 1 and said.err.startswith("error: "), said


@pytest.fixture(scope="module")
def form():
    with contextlib.chdir(ROOT):
        from pipeline.scheduling.flow import Experiment

    return Experiment


@pytest.mark.parametrize("value", [value for value in HOSTILE if value])
def test_form__a_hostile_value_is_refused_before_a_run_exists(form, value):
    for field in ({"name": value}, {"preset": value}, {"arms": [value]}, {"seeds": [value]}, {"targets": [value]}):
        with pytest.raises(ValidationError):
            form(**field)


@pytest.mark.parametrize("value", [
    "data.path=https://user:c4n4ry@example.org/", "data.path=s3://c4n4ry@bucket/x", "no equals", "=1", "a b=1", "a.b=1\nc",
    "a.b=\0", "$(id)=1", "a.b=x:://u:c4n4ry@h",
])  # fmt: skip
def test_form__another_parameter_has_a_key_and_no_credentials(form, value):
    with pytest.raises(ValidationError):
        form(other=[value])


@pytest.mark.parametrize("value", [
    "finetune.ema=0.9", "data.path=/images/a@b", "teacher.source=hf-hub:timm/vit@main", "data.path=s3://bucket/images",
    "arms.names=[semmae, mae]", "data.path=C:/x", "data.path=a:",
])  # fmt: skip
def test_form__what_people_write_is_accepted(form, value):
    assert form(other=[value], targets=["pretrain@semmae-0", "compare"], name="two-arms.v2").other == [value]


@pytest.mark.parametrize(("stage", "words"), [
    ("pretrain@mae-0", ["mae", 0]), ("dvc.yaml:pretrain@mae-0", ["mae", 0]),
    ("../dvc.yaml:pretrain@raw_attention-12", ["raw_attention", 12]),
])  # fmt: skip
def test_arguments__under_dvc_they_are_in_the_name_of_the_stage(monkeypatch, stage, words):
    monkeypatch.setattr(sys, "argv", ["stages/pretrain.py"])
    monkeypatch.setenv("DVC_STAGE", stage)
    assert arguments("ARM", "SEED") == words
    monkeypatch.setattr(sys, "argv", ["stages/pretrain.py", "block", "7"])
    assert arguments("ARM", "SEED") == ["block", 7]


@pytest.mark.parametrize("item", ["mae", "mae-0-1", "$(id)-0", "../x-0", "mae-", "-0", "mae-x", "", "mae-0\n"])
def test_arguments__another_item_of_dvc_is_refused(monkeypatch, item):
    monkeypatch.setattr(sys, "argv", ["stages/pretrain.py"])
    monkeypatch.setenv("DVC_STAGE", f"pretrain@{item}")
    assert refusal(arguments, "ARM", "SEED").startswith("pretrain: ")


@pytest.mark.slow
@pytest.mark.parametrize("value", ["x; touch pwned", "$(touch pwned)", "x' `touch pwned` '"])
def test_repro__a_name_for_a_shell_is_none_for_dvc_itself(tmp_path, value):
    """A params.yaml of a stranger, and a plain `dvc repro` of a stage that nothing upstream would keep from running."""
    folder = make_world(tmp_path / "world")
    run_stage(folder, "stages.digest_code")
    document = read_yaml(folder / "params.yaml")
    document["arms"].update({value: document["arms"]["mae"], "names": [value]})
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML().dump(document, file)
    for name in ("attention", "masks/raw", "masks/learned", "data/shards", "data/masks"):
        (folder / name).mkdir(parents=True)
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    answer = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--single-item", "--glob", "select_masks@*"],
        env={**os.environ, "PATH": path, "SHELL": "/bin/sh", "DVC_NO_ANALYTICS": "1"}, cwd=folder, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert answer.returncode and "arms.names.0: got" in answer.stderr, answer.stdout + answer.stderr
    assert not list(tmp_path.rglob("*pwned*"))


@pytest.mark.parametrize("name", ["select_masks@../../../x", "/etc/x", "a@$(id)", "a@b\0", "a@" + "x" * 300, "", "a b"])
def test_stage_name__a_record_is_called_by_a_name_and_never_by_a_path(monkeypatch, name):
    monkeypatch.setattr(sys, "argv", ["/somewhere/stages/pretrain.py"])
    monkeypatch.setattr(os, "environ", {"DVC_STAGE": name})
    assert stage_name() == "pretrain"
    monkeypatch.setattr(os, "environ", {"DVC_STAGE": "../dvc.yaml:pretrain@semmae-0"})
    assert stage_name() == "pretrain@semmae-0"
