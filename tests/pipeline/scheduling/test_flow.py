import contextlib
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from config.presets import compose, preset_names, read_document, write_params
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def flow():
    with contextlib.chdir(ROOT):
        from pipeline.scheduling import flow

    return flow


def test_form__untouched_it_changes_nothing(flow):
    assert flow.Experiment().changes() == {}


def test_form__every_field_that_changes_a_parameter_names_one_that_exists(flow):
    changes = flow.Experiment(
        epochs=3, mask_ratio=0.5, batch_size=16, learning_rate=1e-3, parts=4, other=["finetune.ema=0.9"]
    ).changes()
    document = read_document(ROOT / "params.yaml")
    for key in changes:
        group, name = key.split(".")
        assert name in document[group]
    assert changes["pretrain.mask_ratio"] == 0.5 and changes["finetune.ema"] == 0.9 and len(changes) == 6


@pytest.mark.parametrize("wrong", [
    {"mask_ratio": 1.0}, {"epochs": -1}, {"arms": ["nobody"]}, {"seeds": [-1]}, {"preset": "none"}, {"name": "a b"},
    {"learning_rate": 2.0}, {"unheard": 1},
])  # fmt: skip
def test_form__impossible_values_are_refused(flow, wrong):
    with pytest.raises(ValidationError):
        flow.Experiment(**wrong)


def test_form__the_deployments_schema_has_ranges_choices_and_help(flow):
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(flow.semmae.fn)
    assert list(schema.properties) == ["form"]
    fields = schema.definitions["Experiment"]["properties"]
    assert set(fields) == set(flow.Experiment.model_fields)
    assert (fields["mask_ratio"]["minimum"], fields["mask_ratio"]["exclusiveMaximum"]) == (0.0, 1.0)
    with contextlib.chdir(ROOT):
        assert set(fields["preset"]["enum"]) == {flow.AS_HERE, *preset_names()}
    assert all(field["description"] for field in fields.values())


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with presets and the quickstart's parameters."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    document = compose("quickstart")
    write_params(document)
    return document


def arms_of_the_form():
    """The arms in the schema of the form that a deployment from the current folder registers."""
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(load_flow_from_entrypoint(f"{ROOT}/pipeline/scheduling/flow.py:semmae"))
    return schema.definitions["Experiment"]["properties"]["arms"]["items"]["enum"]


def test_form__offers_the_arms_of_params_yaml(project):
    project["arms"]["mine"] = project["arms"].pop("raw_attention")
    project["arms"]["names"] = ["mae", "mine"]
    write_params(project)
    assert set(arms_of_the_form()) == project["arms"].keys() - {"names"} >= {"semmae", "mae", "mine"}


@pytest.mark.parametrize(("content", "fault"), [(None, "params.yaml: not found"), ("data: 3\n", "params.yaml: data")])
def test_form__without_valid_parameters_offers_the_quickstarts_arms_with_a_warning(project, capsys, content, fault):
    Path("params.yaml").unlink() if content is None else Path("params.yaml").write_text(content)
    assert set(arms_of_the_form()) == project["arms"].keys() - {"names"}
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert fault in line and line.endswith("the form offers the arms of preset quickstart")


def test_form__shows_the_values_and_the_arms_of_params_yaml(project):
    from prefect.flows import load_flow_from_entrypoint

    project["pretrain"]["epochs"], project["arms"]["names"] = 7, ["block", "mae"]
    write_params(project)
    form = load_flow_from_entrypoint(f"{ROOT}/pipeline/scheduling/flow.py:semmae").fn.__annotations__["form"]
    assert form.model_fields["epochs"].description.endswith("0: as the preset (7)")
    assert "empty: as the preset (block, mae)" in form.model_fields["arms"].description
    assert "\n- `mae`: hides random patches\n" in form.model_fields["arms"].description
