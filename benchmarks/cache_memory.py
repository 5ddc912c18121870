"""Peak memory of the stage cache_masks at 1,000 images and at ten times as many: `python -m benchmarks.cache_memory`.

Each in a process of its own, on random pictures of 32 pixels and a tiny teacher. The shards are small enough for both
to have several, since what the stage holds is a shard's.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_images import write_random_images
from config.presets import compose, write_params
from models.part_learner import PartLearner
from models.teachers import build
from shards.image_shards import list_shards
from training.encoders import save_model
from training.teacher import write_teacher

ROOT = Path(__file__).parents[1]
COUNTS = (1_000, 10_000)
SIZE, SHARD_BYTES = 32, 2**20
ARCHITECTURE = {"img_size": SIZE, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
LEARNER: dict[str, Any] = {"grid": [4, 4], "width": 24, "num_parts": 6, "token_width": 8, "background": True}
# Not getrusage, whose peak a child inherits from the process that started it.
CHILD = """
from pathlib import Path
from stages.cache_masks import main
print(Path("/proc/self/status").read_text())
main()
print(Path("/proc/self/status").read_text())
"""
LABELLING = {"token_layer": 1, "attention_mass": 0.8, "label_background": "slot"}


def prepare(folder: Path, count: int) -> None:
    """Write all that the stage reads: `count` images, a teacher, a part learner, parameters."""
    write_random_images(folder / "data/shards", count, SIZE, shard_bytes=SHARD_BYTES)
    torch.manual_seed(0)
    vit = build(ARCHITECTURE, SIZE)
    write_teacher(folder / "teacher", vit, ARCHITECTURE, source="random", mean=(0.5,) * 3, std=(0.25,) * 3)
    (folder / "part_learner").mkdir()
    save_model(folder / "part_learner", PartLearner(**LEARNER), {**LEARNER, **LABELLING})
    write_params(compose("quickstart"), folder / "params.yaml")
    (folder / "runtime.yaml").write_text((ROOT / "runtime.yaml").read_text())


def peaks(folder: Path) -> tuple[float, float]:
    """Peak resident memory in MiB of the stage run in `folder`: after its imports, and at its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD]
    text = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    imports, end = (int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmHWM"))
    return imports, end


def main() -> None:
    """Print one row a number of images."""
    print(f"cache_masks, images of {SIZE} px, image shards of {SHARD_BYTES / 2**20:.0f} MiB")
    print(" images   shards   imports MiB   peak MiB   relative   beyond imports MiB   relative")
    first: tuple[float, float] | None = None
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as name:
            prepare(Path(name), count)
            imports, peak = peaks(Path(name))
            shards = len(list_shards(Path(name) / "data/shards"))
        own = peak - imports
        first = first or (peak, own)
        shown = f"{imports:13.1f} {peak:10.1f} {peak / first[0]:10.3f} {own:20.1f} {own / first[1]:10.3f}"
        print(f"{count:7d} {shards:8d} {shown}", flush=True)


if __name__ == "__main__":
    main()
