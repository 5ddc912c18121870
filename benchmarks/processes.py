"""Training stages by two processes against one: loss curves side by side and throughput, `python -m benchmarks.processes`.

The stage itself, under its own launcher, on random pictures in a temporary repository; gloo on the CPU. The three settings take
turns; a rate is that of the stage's closing line, which leaves out the start of the processes.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.random_images import write_random_images
from config.presets import check, compose, write_params
from shards.arrays import VERSION
from shards.seals import write_sealed

ROOT = Path(__file__).parents[1]
IMAGES, TEST_IMAGES, SIZE, BATCH, EPOCHS, ROUNDS = 512, 64, 64, 64, 4, 3
SETTINGS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread": (2, 1)}
MODEL = {"width": 192, "depth": 6, "num_heads": 3, "decoder_width": 128, "decoder_depth": 2, "decoder_num_heads": 4}
STAGES = ("pretrain", "finetune")


def main() -> None:
    """Print one row a stage and setting, and the largest difference between the curves."""
    rates: dict[tuple[str, str], list[float]] = {(stage, setting): [] for stage in STAGES for setting in SETTINGS}
    curves: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_repository(folder)
        for stage in STAGES:  # The encoder that is fine-tuned is the last one, for all settings.
            for _ in range(ROUNDS):
                for setting, (world_size, threads) in SETTINGS.items():
                    rate, curves[stage, setting] = train(folder, stage, world_size, threads)
                    rates[stage, setting].append(rate)
    first = next(iter(SETTINGS))
    print(f"{IMAGES * EPOCHS} images of {SIZE} px, batch {BATCH}, {ROUNDS} rounds")
    print(f"{'':34s}{'images/s':>10s}{'ratio':>8s}   loss at the start, middle and end; largest relative difference")
    for (stage, setting), measured in rates.items():
        ratio = statistics.median(a / b for a, b in zip(measured, rates[stage, first], strict=True))
        curve = curves[stage, setting]
        shown = " ".join(f"{curve[place]:.6f}" for place in (0, len(curve) // 2, -1))
        worst = max(abs(a - b) / b for a, b in zip(curve, curves[stage, first], strict=True))
        print(f"{stage:10s}{setting:24s}{statistics.median(measured):10.1f}{ratio:8.2f}   {shown}; {worst:.1e}")


def make_repository(folder: Path) -> None:
    """Random pictures of two classes as image shards, an arm without masks, and parameters."""
    write_random_images(folder / "data" / "shards", IMAGES, SIZE, test_count=TEST_IMAGES, classes="ab")
    write_sealed(folder / "arms" / "mae" / "manifest.json", {"version": VERSION, "header": {"kind": "none"}})
    (folder / "runtime.yaml").write_text((ROOT / "runtime.yaml").read_text())
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)


def train(folder: Path, stage: str, world_size: int, threads: int) -> tuple[float, list[float]]:
    """Images a second and the loss of every step."""
    document = compose("quickstart")
    document["pretrain"].update(MODEL, epochs=EPOCHS, batch_size=BATCH, decode_size=SIZE, image_size=SIZE, patch_size=8)
    document["finetune"].update(epochs=EPOCHS, batch_size=BATCH)
    document["compute"].update(world_size=world_size, threads=threads, device="cpu")
    write_params(check(document, "benchmark"), folder / "params.yaml")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"stages.{stage}", "mae", "0"]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    rate = re.search(r"images, (\d+) images/s", done.stdout)
    assert rate is not None, done.stdout
    history = json.loads((folder / "history" / stage / "mae-0.json").read_text())
    return float(rate[1]), [row["loss"] for row in history]


if __name__ == "__main__":
    main()
