"""What a CUDA device makes of this project, within minutes: `make gpu`. Prints a table and writes JSON.

Correctness: losses of ten steps of a ViT-S/16 on the device beside those on the CPU, and of a run that is saved and resumed.
Speed: pretraining in bf16 against other implementations in the same process, extraction against the plain forward pass, and
how many images a second the CPUs decode and crop. The share of peak is that of a large matrix product measured here.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.input import BATCH, generate, own, write_shards
from benchmarks.pretraining_step import CROSS, OURS, VIT, Contender, contenders
from parts.attention import extract_all

STEPS, WARM_UP, ROUNDS, PEAK_SIDE = 10, 3, 5, 8192
# Images of a step, and of the comparison with the CPU.
BATCHES = {"ViT-S/16": 256, "ViT-B/16": 128, "ViT-B/8": 32}
COMPARED = 16
# Largest relative difference of a loss from the CPU's in fp32.
TOLERANCES = {"fp32": 1e-3, "bf16": 3e-2}
Results = dict[str, dict[str, float]]


def images_of(count: int, device: torch.device) -> torch.Tensor:
    """Random images, the same on every device."""
    side = VIT["image_size"]
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device)


def autocast(device: torch.device) -> Callable[[], Any]:
    """bf16 on the device."""
    return partial(torch.autocast, device.type, torch.bfloat16)


def losses(device: torch.device, precision: str) -> torch.Tensor:
    """Losses (STEPS,) of our first steps."""
    options = {} if precision == "fp32" else {"autocast": autocast(device)}
    contender = Contender(OURS, "ViT-S/16", images_of(COMPARED, device), **options)
    return torch.stack([contender() for _ in range(STEPS)]).cpu()


def correctness(device: torch.device) -> Results:
    """Largest relative differences of losses, and what is allowed of them."""
    expected = losses(torch.device("cpu"), "fp32")
    rows = {
        f"{precision} against the CPU": {
            "difference": float(((losses(device, precision) - expected) / expected).abs().max()),
            "allowed": allowed,
        }
        for precision, allowed in TOLERANCES.items()
    }
    whole, saved = (Contender(OURS, "ViT-S/16", images_of(COMPARED, device)) for _ in range(2))
    for _ in range(STEPS // 2):
        whole()
        saved()
    resumed = Contender(OURS, "ViT-S/16", images_of(COMPARED, device))
    resumed.model.load_state_dict(copy.deepcopy(saved.model.state_dict()))
    resumed.optimizer.load_state_dict(copy.deepcopy(saved.optimizer.state_dict()))
    resumed.draw.set_state(saved.draw.get_state())
    last = torch.stack([torch.stack([whole(), resumed()]) for _ in range(STEPS // 2)]).cpu()
    # Kernels of a GPU may add in another order each time.
    allowed = 0.0 if device.type == "cpu" else TOLERANCES["fp32"]
    rows["resumed"] = {"difference": float((last[:, 0] - last[:, 1]).abs().max()), "allowed": allowed}
    return rows


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call, the device's work included."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times = []
    for number in range(-WARM_UP, ROUNDS):
        wait()
        started = time.perf_counter()
        work()
        wait()
        if number >= 0:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def peak_flops(device: torch.device, side: int = PEAK_SIDE) -> float:
    """FLOP/s of a product of two matrices in bf16."""
    one, other = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    return 2 * side**3 / seconds(lambda: one @ other, device)


def pretraining(device: torch.device, batches: dict[str, int] = BATCHES) -> Results:
    """Images a second, share of peak and memory of a step, by size and implementation."""
    rows, peak = {}, peak_flops(device)
    for size, batch in batches.items():
        for name in contenders():
            if name in CROSS and CROSS[name][0]["decoder_depth"] != 12:
                continue
            step = Contender(name, size, images_of(batch, device), autocast=autocast(device))
            with FlopCounterMode(display=False) as counter:
                step()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            took = seconds(step, device)
            rows[f"{size} {name}"] = {
                "images/s": batch / took,
                "share of peak": counter.get_total_flops() / took / peak,
                "peak GiB": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0,
            }
            del step
    return rows


@torch.no_grad()
def extraction(device: torch.device, batch: int = BATCHES["ViT-S/16"]) -> Results:
    """Images a second of the plain forward pass and of extraction."""
    vit, images = timm.create_model("vit_small_patch16_224", num_classes=0).eval().to(device), images_of(batch, device)
    ways: dict[str, Callable[..., object]] = {"plain": vit, "extraction": partial(extract_all, vit)}
    rows = {}
    for name, work in ways.items():
        with autocast(device)():
            rows[f"ViT-S/16 {name}"] = {"images/s": batch / seconds(partial(work, images), device)}
    return rows


def reading(workers: int, count: int = 8 * BATCH) -> Results:
    """Images a second that are decoded from shards and cropped on the CPUs."""
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name) / "photographs", count)
        write_shards(Path(name) / "photographs", Path(name) / "shards")
        epoch = own(Path(name) / "shards", workers, 0.0, count)
        return {f"{workers} workers": {"images/s": count / seconds(epoch, torch.device("cpu"))}}


def main() -> None:
    """Measure and show it; exit 1 without a CUDA device, and where a difference is larger than allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(".semmae/gpu.json"))
    parser.add_argument("--workers", type=int, default=8)
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("make gpu: this machine has no CUDA device, so nothing was measured")
    device = torch.device("cuda")
    torch.set_float32_matmul_precision("highest")
    results = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    works: dict[str, Callable[[], Results]] = {
        "correctness": lambda: correctness(device),
        "pretraining": lambda: pretraining(device),
        "extraction": lambda: extraction(device),
        "reading": lambda: reading(chosen.workers),
    }
    print(", ".join(results.values()))
    tables: dict[str, Results] = {}
    for title, work in works.items():
        tables[title] = work()
        for name, row in tables[title].items():
            print(
                f"{title:12s} {name:34s}" + "".join(f"{key} {value:<12.4g}" for key, value in row.items()), flush=True
            )
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps({**results, **tables}, indent=1), encoding="utf-8")
    print(f"written to {chosen.out}")
    if any(row["difference"] > row["allowed"] for row in tables["correctness"].values()):
        raise SystemExit("make gpu: a difference is larger than allowed")


if __name__ == "__main__":
    main()
