import contextlib

import pytest

from config.params import load_params
from jobs.fingerprint import fingerprint
from tests.conftest import ROOT

COMPUTE = load_params(ROOT / "params.yaml").compute


def identity(tmp_path, params=None, **compute):
    (tmp_path / "input").write_text("a")
    with contextlib.chdir(ROOT):
        changed = COMPUTE.model_copy(update=compute)
        return fingerprint("stages.pretrain", params=params or {}, compute=changed, inputs=[tmp_path / "input"])


@pytest.mark.parametrize("change", [{"threads": 7}, {"precision": "fp16"}, {"device": "cuda"}, {"compile": True}])
def test_fingerprint__what_changes_the_bits_makes_another_job(tmp_path, change):
    assert identity(tmp_path) == identity(tmp_path)
    assert identity(tmp_path, **change) != identity(tmp_path)


def test_fingerprint__a_parameter_makes_another_job(tmp_path):
    assert identity(tmp_path, params={"lr": 1.0}) != identity(tmp_path, params={"lr": 2.0})


def test_fingerprint__a_checkpoint_serves_any_number_of_processes_and_any_cut_of_the_batch(tmp_path):
    assert identity(tmp_path, world_size=8, micro_batch=4) == identity(tmp_path)
