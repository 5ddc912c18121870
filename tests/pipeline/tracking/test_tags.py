from dataclasses import replace

import pytest

from config.redaction import MARK
from pipeline.tracking.tags import OF_MOMENT, OF_STATE, Origin, Tagged, matrix_of, tags_of
from tests.conftest import ROOT

ORIGIN = Origin("c0ffee", "false", "", "quickstart", "host/1:2.0", matrix_of(ROOT / "dvc.yaml"))


@pytest.mark.parametrize(("name", "items"), {
    "pretrain@mae-0": {"arm": "mae", "seed": "0"},
    "select_masks@semmae": {"arm": "semmae"},
    "linear_mae@class-lars-mae-10": {"arm": "mae", "seed": "10"},
    "transfer@flowers-raw_attention-1": {"set": "flowers", "arm": "raw_attention", "seed": "1"},
    "prepare_transfer@flowers": {"set": "flowers"},
    "generate_creatures@creatures": {},
    "evaluate_parts@True": {},
    "compare": {},
    "gone@mae-0": {},
    "pretrain@mae": {},
}.items())  # fmt: skip
def test_tags_of__arm_seed_and_set_are_those_of_the_matrix_in_dvc_yaml(name, items):
    tags = tags_of(Tagged(ORIGIN, name), OF_STATE)
    assert tags == {"stage": name.partition("@")[0], "dvc_stage": name, **items}


@pytest.mark.parametrize(("name", "title"), {
    "pretrain@mae-0": "mae 0 pretrain",
    "linear_mae@class-lars-mae-10": "lars mae 10 linear_mae",
    "transfer@flowers-raw_attention-1": "flowers raw_attention 1 transfer",
    "compare": "compare",
    "gone@mae-0": "gone@mae-0",
}.items())  # fmt: skip
def test_title__is_experiment_arm_seed_and_stage(name, title):
    assert Tagged(ORIGIN, name).title == title
    experiment = replace(ORIGIN, experiment="wide")
    assert Tagged(experiment, name).title == f"wide {title}"
    assert (Tagged(ORIGIN).title, Tagged(experiment).title) == ("pipeline", "wide")


def test_tags_of__a_stage_that_was_executed_has_tags_of_its_record_without_secrets():
    entry = {"params": {"params.yaml": {"compute.threads": 0}}}
    record = {"device": "https://user:secret@host", "slot": "", "torch": "2"}
    tags = tags_of(Tagged(ORIGIN, "probe@mae-0", entry, record, key="k", parent="p"))
    assert tags == {
        "stage": "probe", "dvc_stage": "probe@mae-0",
        "arm": "mae", "seed": "0", "threads": "0", "fingerprint": "k", "mlflow.parentRunId": "p",
        "cache_hit": "false", "git_commit": "c0ffee", "git_dirty": "false", "preset": "quickstart",
        "semmae.writer": "host/1:2.0", "device": f"https://{MARK}@host", "torch": "2",
    }  # fmt: skip
    assert tags_of(Tagged(ORIGIN, "probe@mae-0", parent="p"))["cache_hit"] == "true"
    assert "cache_hit" not in tags_of(Tagged(ORIGIN, state="s"))


def test_tags__a_name_stands_in_one_table():
    assert not OF_STATE.keys() & OF_MOMENT.keys()
