import pytest
import torch

from training.compute import Compute, device_type, full_precision, set_up

CPU = {"threads": 1, "device": "cpu", "compile": False, "world_size": 1, "micro_batch": 0}


def test_set_up__a_cpu_computes_in_fp32_unless_told_otherwise():
    assert set_up(**CPU, precision="auto").precision == "fp32"
    assert set_up(**CPU, precision="bf16").precision == "bf16"


def test_set_up__fp16_on_a_cpu_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^compute.precision: got fp16, which needs a CUDA device; use .*$"):
        set_up(**CPU, precision="fp16")


def test_set_up__tf32_needs_a_gpu_and_no_other_precision_rounds_matrix_products():
    with pytest.raises(ValueError, match=r"^compute.precision: got tf32, which needs a CUDA device"):
        set_up(**CPU, precision="tf32")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    set_up(**CPU, precision="fp32")
    assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_compute__autocast_multiplies_in_the_precision(precision, dtype):
    compute = Compute(torch.device("cpu"), precision, compile=False, world_size=1, micro_batch=0)
    with compute.autocast():
        assert torch.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3)).dtype == dtype
    assert compute.scaler().is_enabled() == (precision == "fp16")


def test_device_type__a_named_device_is_taken_at_its_word_where_others_do_the_work(monkeypatch):
    for has_gpu, here in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        assert device_type("auto") == device_type("auto", elsewhere=True) == here
        assert device_type("cpu") == device_type("cpu", elsewhere=True) == "cpu"
        assert device_type("cuda", elsewhere=True) == "cuda"
    with pytest.raises(ValueError, match=r"^compute.device: got cuda, but this machine has no CUDA device"):
        device_type("cuda")


def test_full_precision__holds_in_the_block_and_gives_back_what_was_before():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
