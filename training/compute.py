"""Threads, device and precision of a process, from the `compute` group."""

import contextlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Compute:
    """Resolved choices: no `auto` is left."""

    device: torch.device
    precision: str
    compile: bool

    def autocast(self) -> contextlib.AbstractContextManager:
        """Mixed precision for a forward pass; nothing where the precision is fp32."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def set_up(*, threads: int, device: str, precision: str, compile: bool, world_size: int) -> Compute:
    """Set this process's threads and resolve device and precision.

    `auto` precision is bf16 on a GPU that has it and fp32 on a CPU, where bf16 is slower. Raises ValueError where the
    machine lacks what is asked for.
    """
    assert world_size == 1, "the parameters allow one process"
    torch.set_num_threads(threads)
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ValueError("compute.device: got cuda, but this machine has no CUDA device; use cpu or auto")
    chosen = torch.device("cuda" if has_gpu and device != "cpu" else "cpu")
    if precision == "auto":
        precision = "bf16" if chosen.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return Compute(chosen, precision, compile)
