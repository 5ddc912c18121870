"""Time of semantic masks beside random ones, and how it grows: `python -m benchmarks.masking`.

Random masking as MAE publishes it (noise, two argsorts, a gather) and ours take turns in one process; a ratio is that of
neighbours.
"""

import statistics

import torch

from benchmarks.pretraining_step import seconds
from parts.masking import random_mask, semantic_mask

BATCH, LENGTH, PARTS, RATIO = 256, 196, 6, 0.75
ROUNDS, REPEATS, THREADS = 15, 5, 2


def two_argsorts(batch: int, length: int, draw: torch.Generator) -> torch.Tensor:
    """MAE's random masking by its description: the patches of the smallest noise stay, masks come back in patch order."""
    kept = int(length * (1 - RATIO))
    shuffled = torch.rand(batch, length, generator=draw).argsort(dim=1)
    restore = shuffled.argsort(dim=1)
    mask = torch.ones(batch, length)
    mask[:, :kept] = 0
    return mask.gather(1, restore)


def main() -> None:
    """Print milliseconds a batch and the ratio to random masking, one row a setting."""
    torch.set_num_threads(THREADS)
    draw = torch.Generator().manual_seed(0)
    print(f"{THREADS} threads, medians of {ROUNDS} rounds of {REPEATS}")
    print(
        f"{'B':>6s}{'L':>6s}{'K':>4s}{'random, ms':>12s}{'ours, ms':>10s}{'semantic, ms':>14s}{'semantic / random':>19s}"
    )
    settings = [(BATCH, LENGTH, PARTS), (4 * BATCH, LENGTH, PARTS), (BATCH, 4 * LENGTH, PARTS), (BATCH, LENGTH, 24)]
    for batch, length, parts in settings:
        labels = torch.randint(0, parts + 1, (batch, length), generator=draw)

        def semantic(labels: torch.Tensor = labels, parts: int = parts) -> None:
            for _ in range(REPEATS):
                semantic_mask(labels, ratio=RATIO, alpha=0.5, num_parts=parts, background="part", generator=draw)

        def published(batch: int = batch, length: int = length) -> None:
            for _ in range(REPEATS):
                two_argsorts(batch, length, draw)

        def own(batch: int = batch, length: int = length) -> None:
            for _ in range(REPEATS):
                random_mask(batch, length, ratio=RATIO, generator=draw)

        times = seconds({"published": published, "own": own, "semantic": semantic}, ROUNDS)
        milliseconds = [statistics.median(rounds) * 1000 / REPEATS for rounds in times.values()]
        ratio = statistics.median(a / b for a, b in zip(times["semantic"], times["published"], strict=True))
        shown = "".join(f"{value:{width}.2f}" for value, width in zip(milliseconds, (12, 10, 14), strict=True))
        print(f"{batch:6d}{length:6d}{parts:4d}{shown}{ratio:19.2f}", flush=True)


if __name__ == "__main__":
    main()
