"""Threads, device and precision of a process, from the `compute` group."""

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from jobs.record import note


@dataclass(frozen=True)
class Compute:
    """Resolved choices: no `auto` is left."""

    device: torch.device
    precision: str
    compile: bool
    world_size: int
    micro_batch: int

    def autocast(self) -> contextlib.AbstractContextManager:
        """Mixed precision for a forward pass; nothing where the precision is fp32 or tf32."""
        if self.precision in ("fp32", "tf32"):
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.float16 if self.precision == "fp16" else torch.bfloat16)

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss of fp16, whose small gradients are lost otherwise; does nothing at any other precision."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")


# mallopt's names in glibc's malloc.h, and the largest threshold for blocks of their own that it takes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD, KEPT_BYTES = 32 * 2**20, 2**30


def keep_memory() -> None:
    """Let the allocator keep what tensors leave, up to 1 GiB, instead of asking the kernel for zeroed pages at every step.

    A third of the page faults remains, and a training step takes up to 8 % less time. Where the C library is not glibc
    nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Have products of single precision computed as such in the block, also where `compute.precision` is tf32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def device_type(device: str, *, elsewhere: bool = False) -> str:
    """`cpu` or `cuda`: what `compute.device` means on this machine.

    elsewhere: other machines do the work, so a named device is not checked here; `auto` is still what this machine has.
    Raises ValueError where this machine lacks the device.
    """
    if device == "cuda" and elsewhere:
        return device
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ValueError("compute.device: got cuda, but this machine has no CUDA device; use cpu or auto")
    return "cuda" if has_gpu and device != "cpu" else "cpu"


def set_up(
    *, threads: int, device: str, precision: str, compile: bool, world_size: int, micro_batch: int = 0
) -> Compute:
    """Set this process's threads and resolve device and precision.

    `auto` precision is bf16 on a GPU that has it and fp32 on a CPU, where bf16 is slower. Raises ValueError where the
    machine lacks the device or the precision.
    """
    keep_memory()
    torch.set_num_threads(threads)
    chosen = torch.device(device_type(device))
    if precision in ("fp16", "tf32") and chosen.type != "cuda":
        raise ValueError(f"compute.precision: got {precision}, which needs a CUDA device; use fp32, bf16 or auto")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if precision == "auto":
        precision = "bf16" if chosen.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    name = torch.cuda.get_device_name() if chosen.type == "cuda" else "cpu"
    note(device=name, precision=precision, torch=torch.__version__)
    return Compute(chosen, precision, compile, world_size, micro_batch)
