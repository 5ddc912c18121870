import contextlib

import pytest
from pydantic import ValidationError

from config.presets import preset_names, read_document
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


def test_form__the_server_is_told_ranges_choices_and_help(flow):
    fields = flow.Experiment.model_json_schema()["properties"]
    assert (fields["mask_ratio"]["minimum"], fields["mask_ratio"]["exclusiveMaximum"]) == (0.0, 1.0)
    assert set(fields["preset"]["enum"]) == {flow.AS_HERE, *preset_names_of_the_project()}
    assert {"semmae", "mae", "untrained"} <= set(fields["arms"]["items"]["enum"])
    assert all(field["description"] for field in fields.values())


def preset_names_of_the_project():
    with contextlib.chdir(ROOT):
        return preset_names()


def test_form__the_deployments_schema_is_that_of_the_form(flow):
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(flow.semmae.fn)
    assert list(schema.properties) == ["form"]
    assert set(schema.definitions["Experiment"]["properties"]) == set(flow.Experiment.model_fields)
