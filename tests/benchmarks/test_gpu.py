import subprocess
import sys

import pytest
import torch

from benchmarks import gpu, pretraining_step
from tests.conftest import ROOT

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for module in (gpu, pretraining_step):
        monkeypatch.setattr(module, "VIT", {"image_size": 64, "depth": 1})
    monkeypatch.setattr(gpu, "STEPS", 2)
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "WARM_UP", 0)
    monkeypatch.setattr(gpu, "COMPARED", 2)


@pytest.mark.slow
def test_correctness__of_the_cpu_with_itself_is_exact_in_fp32_and_close_in_bf16():
    rows = gpu.correctness(CPU)
    assert rows["fp32 against the CPU"]["difference"] == rows["resumed"]["difference"] == 0
    assert 0 < rows["bf16 against the CPU"]["difference"] < 0.03


@pytest.mark.slow
def test_pretraining__counts_the_work_of_each_implementation(monkeypatch):
    monkeypatch.setattr(gpu, "peak_flops", lambda device: 1.0)
    rows = gpu.pretraining(CPU, {"ViT-S/16": 2})
    flops = {name: row["share of peak"] / row["images/s"] for name, row in rows.items()}
    assert flops["ViT-S/16 timm blocks"] > flops["ViT-S/16 this project"] > 2 * flops["ViT-S/16 cross, 12 blocks, 1/3"]


def test_main__without_a_gpu_one_line_says_so():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "make gpu: this machine has no CUDA device, so nothing was measured\n"
