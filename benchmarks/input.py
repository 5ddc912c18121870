"""Images a second from shards to augmented tensors, against torchvision's ImageFolder: `python -m benchmarks.input [FOLDER]`.

The same photographs (FOLDER in ImageFolder layout, or generated JPEG files of 400 x 533 pixels), the same number of workers,
views of 224 pixels. ImageFolder with RandomResizedCrop (bicubic), flip, ToTensor and Normalize in a DataLoader; ours streamed,
which decodes every image anew, and kept, as from the second epoch on where the memory allows. They take turns; a ratio is that
of neighbours.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from images.augmentation import IMAGENET_MEAN, IMAGENET_STD, crop_images, normalise, random_crops, random_flips, snapped
from images.sources.items import id_of
from images.stream import TrainingImages
from shards.image_shard_writer import ImageShardWriter
from shards.image_shards import ImageShards
from training.randomness import generator

SIZE, SCALE, RATIO, BATCH, PREFETCH, WINDOW = 224, (0.2, 1.0), (3 / 4, 4 / 3), 64, 4, 8192
GENERATED, HEIGHT, WIDTH = 512, 400, 533


def image_folder(folder: Path, workers: int, count: int) -> Callable[[], None]:
    """One pass over `count` images by torchvision."""
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, SCALE, RATIO, transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    chosen = torch.utils.data.Subset(ImageFolder(folder, view), range(count))
    options: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": PREFETCH} if workers else {}
    loader = DataLoader(chosen, BATCH, shuffle=True, num_workers=workers, drop_last=True, **options)

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch


def own(shards: Path, workers: int, ram_gib: float, count: int) -> Callable[[], None]:
    """One pass over `count` images from the shards, as `stages.pretrain` reads them."""
    images = TrainingImages(
        ImageShards(shards, "train"), SIZE, window=WINDOW, ram_gib=ram_gib, workers=workers, prefetch=PREFETCH
    )
    order = images.order(0, "order")
    first = [0]

    def make(step: int) -> torch.Tensor:
        batch = images.batch(order.rows(step * BATCH, BATCH))
        draw = generator(0, "crops", step)
        boxes = random_crops(BATCH, scale=SCALE, ratio=RATIO, aspect=torch.from_numpy(batch.aspect), generator=draw)
        boxes = snapped(boxes, torch.from_numpy(batch.sizes))
        return normalise(crop_images(batch.pixels, boxes, random_flips(BATCH, draw), (SIZE, SIZE)))

    def epoch() -> None:
        last = first[0] + count // BATCH
        inputs = images.ahead(make, steps=last)
        for step in range(first[0], last):
            inputs(step)
        first[0] = last

    return epoch


def generate(folder: Path, count: int = GENERATED) -> None:
    """Photograph-like JPEG files: smooth colours with some noise."""
    draw = np.random.default_rng(0)
    (folder / "some").mkdir(parents=True)
    for number in range(count):
        rough = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(rough) + draw.normal(0, 6, (HEIGHT, WIDTH, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "some" / f"{number:04d}.jpg", quality=85)


def write_shards(folder: Path, target: Path) -> int:
    """The images of an ImageFolder as one training split; returns how many."""
    files = [Path(name) for name, _ in ImageFolder(folder).samples]
    with ImageShardWriter(target, classes=["a"], shard_bytes=2**26) as writer:
        for file in files:
            data, name = file.read_bytes(), file.relative_to(folder).as_posix()
            digest = hashlib.sha256(data).digest()
            writer.add("train", image_id=id_of(name.encode()), label=0, sha256=digest, image=data, path=name)
    return len(files)


def main() -> None:
    """Print one row a number of workers and a way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = chosen.folder or Path(name) / "photographs"
        if chosen.folder is None:
            generate(folder)
        count = write_shards(folder, Path(name) / "shards") // BATCH * BATCH
        print(f"{count} images to {SIZE} px, batches of {BATCH}, medians of {chosen.rounds} rounds")
        print(f"{'workers':>8s} {'':14s}{'images/s':>10s}{'ratio':>8s}")
        for workers in chosen.workers:
            work = {
                "ImageFolder": image_folder(folder, workers, count),
                "streamed": own(Path(name) / "shards", workers, 0.0, count),
                "kept": own(Path(name) / "shards", workers, 16.0, count),
            }
            times: dict[str, list[float]] = {way: [] for way in work}
            for number in range(-1, chosen.rounds):
                for way, epoch in work.items():
                    started = time.perf_counter()
                    epoch()
                    if number >= 0:
                        times[way].append(time.perf_counter() - started)
            for way, seconds in times.items():
                ratio = statistics.median(a / b for a, b in zip(times["ImageFolder"], seconds, strict=True))
                print(f"{workers:8d} {way:14s}{count / statistics.median(seconds):10.0f}{ratio:8.2f}", flush=True)


if __name__ == "__main__":
    main()
