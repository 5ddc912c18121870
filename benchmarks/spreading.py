"""Extraction by one and by two workers, of this machine and of Ray: `python -m benchmarks.spreading`.

The stage itself on random pictures in a temporary repository, with one thread a worker. The settings take turns; a ratio is that
of neighbours. `steady` is from a quarter of the images to the last, when all workers are there; `whole` is the stage with the
start of all processes.
"""

import argparse
import hashlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.random_images import write_random_images
from config.presets import check, compose, write_params
from models.teachers import build
from shards.image_shards import list_shards
from training.teacher import write_teacher

ROOT = Path(__file__).parents[1]
SIZE, SHARD_BYTES, BATCH = 96, 2**19, 8
ARCHITECTURE = {"img_size": SIZE, "patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 3}
SETTINGS = {
    "this process": ("local", 1),
    "2 processes": ("local", 2),
    "Ray, 1 worker": ("ray", 1),
    "Ray, 2 workers": ("ray", 2),
}


def make_repository(folder: Path, images: int) -> None:
    """Random pictures as image shards, a teacher with random weights, and parameters."""
    write_random_images(folder / "data" / "shards", images, SIZE, shard_bytes=SHARD_BYTES)
    torch.manual_seed(0)
    vit = build(ARCHITECTURE, SIZE)
    write_teacher(folder / "teacher", vit, ARCHITECTURE, source="random", mean=(0.5,) * 3, std=(0.25,) * 3)
    document = compose("quickstart")
    document["extract"].update(batch_size=BATCH, part_images=images // 4)
    document["compute"].update(threads=1, device="cpu")
    write_params(check(document, "benchmark"), folder / "params.yaml")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)


def extract(folder: Path, engine: str, workers: int) -> tuple[float, float, str]:
    """Images a second, steady and whole, of a run without kept shards; and a digest over its outs."""
    for name in (".semmae", "attention", "masks"):
        shutil.rmtree(folder / name, ignore_errors=True)
    text = (ROOT / "runtime.yaml").read_text()
    for old, new in (
        ("engine: local", f"engine: {engine}"),
        ("shard_workers: 1", f"shard_workers: {workers}"),
        ("workers: 2\n", "workers: 1\n"),
        ("log_seconds: 10", "log_seconds: 1.0e-9"),
    ):
        assert old in text, old
        text = text.replace(old, new, 1)
    (folder / "runtime.yaml").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.extract_attention"]
    started = time.monotonic()
    seen: list[tuple[float, int]] = []
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.match(r"extract_attention: (\d+)/\d+ images", line):
                seen.append((time.monotonic(), int(match[1])))
    assert process.returncode == 0
    last, done = seen[-1]
    first, before = next((moment, images) for moment, images in seen if images >= done / 4)
    digest = hashlib.sha256()
    for path in sorted(path for out in ("attention", "masks") for path in (folder / out).rglob("*.*")):
        digest.update(path.read_bytes())
    return (done - before) / (last - first), done / (time.monotonic() - started), digest.hexdigest()


def main() -> None:
    """Print one row a setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    chosen = parser.parse_args()
    steady: dict[str, list[float]] = {name: [] for name in chosen.settings}
    whole: dict[str, list[float]] = {name: [] for name in chosen.settings}
    digests: set[str] = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_repository(folder, chosen.images)
        shards = len(list_shards(folder / "data" / "shards"))
        for _ in range(chosen.rounds):
            for setting in chosen.settings:
                one, other, digest = extract(folder, *SETTINGS[setting])
                steady[setting].append(one)
                whole[setting].append(other)
                digests.add(digest)
    first = chosen.settings[0]
    print(
        f"{chosen.images} images of {SIZE} px in {shards} shards, 1 thread a worker, medians of {chosen.rounds} rounds"
    )
    print(f"{'':16s}{'steady images/s':>17s}{'whole images/s':>16s}   ratio of steady to {first}: median, least, most")
    for setting in chosen.settings:
        ratios = sorted(a / b for a, b in zip(steady[setting], steady[first], strict=True))
        rates = f"{statistics.median(steady[setting]):17.1f}{statistics.median(whole[setting]):16.1f}"
        print(f"{setting:16s}{rates}   {statistics.median(ratios):.2f} {ratios[0]:.2f} {ratios[-1]:.2f}")
    print(f"outs: {'the same bytes in all runs' if len(digests) == 1 else f'{len(digests)} different ones'}")


if __name__ == "__main__":
    main()
