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
    world_size: int
    micro_batch: int

    def autocast(self) -> contextlib.AbstractContextManager:
        """Mixed precision for a forward pass; nothing where the precision is fp32."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.float16 if self.precision == "fp16" else torch.bfloat16)

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss of fp16, whose small gradients are lost otherwise; does nothing at any other precision."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")


def set_up(
    *, threads: int, device: str, precision: str, compile: bool, world_size: int, micro_batch: int = 0
) -> Compute:
    """Set this process's threads and resolve device and precision.

    `auto` precision is bf16 on a GPU that has it and fp32 on a CPU, where bf16 is slower. Raises ValueError where the
    machine lacks what is asked for.
    """
    torch.set_num_threads(threads)
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ValueError("compute.device: got cuda, but this machine has no CUDA device; use cpu or auto")
    chosen = torch.device("cuda" if has_gpu and device != "cpu" else "cpu")
    if precision == "fp16" and chosen.type != "cuda":
        raise ValueError("compute.precision: got fp16, which needs a CUDA device; use fp32, bf16 or auto")
    if precision == "auto":
        precision = "bf16" if chosen.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return Compute(chosen, precision, compile, world_size, micro_batch)
