"""What attention extraction costs beside the plain forward pass of the same network: `python -m benchmarks.extraction`.

A ViT-S/16 at 224 pixels with random weights. The two are timed in turn, in one process and in alternating order, so that
whatever else the machine does falls on both; the ratio is that of neighbours.
"""

import statistics

import timm
import torch

from benchmarks.pretraining_step import seconds
from parts.attention import extract_all

BATCH, PAIRS, THREADS = 8, 6, (1, 2)


@torch.no_grad()
def main() -> None:
    """Print one row a number of threads."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    images = torch.randn(BATCH, 3, 224, 224)
    work = {"plain": lambda: vit(images), "extraction": lambda: extract_all(vit, images)}
    print(f"ViT-S/16, 224 px, batch {BATCH}, {PAIRS} pairs: images/s (median), extraction / plain by pair")
    print("threads   plain   extraction   ratio: median    least     most")
    for threads in THREADS:
        torch.set_num_threads(threads)
        times = seconds(work, PAIRS)
        plain, extraction = (BATCH / statistics.median(times[name]) for name in ("plain", "extraction"))
        ratios = sorted(one / other for one, other in zip(times["plain"], times["extraction"], strict=True))
        shown = f"{statistics.median(ratios):14.3f} {ratios[0]:8.3f} {ratios[-1]:8.3f}"
        print(f"{threads:7d} {plain:7.1f} {extraction:12.1f} {shown}", flush=True)


if __name__ == "__main__":
    main()
