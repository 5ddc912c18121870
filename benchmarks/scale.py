"""Measure what an image costs here, and write docs/scale.md from it: `python -m benchmarks.scale --rows FILE`.

FILE is what `python -m benchmarks.rows --rows 1e6 1e7 1e8 --json FILE` wrote; without it the rows of the last record stay.
`--render` only writes the page anew from the stored record, docs/scale.json. Memory an image is the slope between the peaks of
two processes that differ in the number of images alone. The rest is CPU time of one thread.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rows
from benchmarks.costs import CLASSES, GROUP_IMAGES
from benchmarks.scale_page import document
from jobs.record import peak_mib
from shards.files import read_json, write_json, write_text

RECORD, PAGE = Path("docs/scale.json"), Path("docs/scale.md")
# Images of a measurement, and the two sizes of those of memory: small files, image shards, features.
PHOTOGRAPHS, BATCH, FILES, SHARDED, FEATURES = 256, 16, (20_000, 60_000), (50_000, 250_000), (20_000, 80_000)
WIDTH, GRID_LENGTH, HEADS, TEACHER_WIDTH, DECODE_SIZE = 768, 196, 6, 384, 512
MASKED = {"image_size": 224, "patch_size": 16, "width": WIDTH, "depth": 12, "num_heads": 12}
DECODER = {"decoder_width": 512, "decoder_depth": 8, "decoder_num_heads": 16}


def core_seconds(work: Callable[[], object], images: int) -> float:
    """CPU seconds an image, of all threads."""
    started = time.process_time()
    work()
    return (time.process_time() - started) / images


def preparing(folder: Path) -> dict[str, float]:
    """prepare_data on photographs: CPU seconds an image, and bytes that a shard adds to them."""
    from benchmarks.input import generate
    from shards.image_shards import ImageShards

    generate(folder / "photographs", PHOTOGRAPHS)
    seconds = core_seconds(lambda: prepare(folder / "photographs", folder / "shards"), PHOTOGRAPHS)
    shards = ImageShards(folder / "shards", "train")
    own = sum(len(shards.bytes(row)) for row in range(len(shards)))
    listed = read_json(folder / "shards/manifest.json")["splits"]["train"]["shards"]
    return {
        "prepare_seconds": seconds,
        "photograph_bytes": own / len(shards),
        "shard_overhead_bytes": (sum(shard["bytes"] for shard in listed) - own) / len(shards),
        "manifest_shard_bytes": len(json.dumps(listed[0], indent=2)) + 8.0,
    }


def prepare(source: Path, target: Path) -> None:
    """The stage without its parameters: all images of a folder into image shards."""
    from images.sources.preparation import fill_shards
    from images.sources.source import open_source
    from images.sources.splits import assign_splits
    from shards.image_shard_writer import ImageShardWriter

    found = open_source(str(source), image_column="image", label_column="label")
    assign_splits(found.items, seed=0, val_share=0.01, test_share=0.01)
    with ImageShardWriter(target, classes=found.classes, has_masks=False, shard_bytes=2**26) as writer:
        fill_shards(writer, found, previous=[], max_pixels=10**8, workers=1)


def decoding(folder: Path) -> dict[str, float]:
    """CPU seconds an image from shards to what a teacher and what pretraining take; one pass before does not count."""
    import torch

    from images.augmentation import crop_images, crop_labels, normalise, random_crops, random_flips, snapped
    from images.decoding import decode_square
    from images.stream import TrainingImages
    from parts.masking import semantic_mask
    from shards.image_shards import ImageShards

    shards = ImageShards(folder / "shards", "train")
    images = TrainingImages(shards, DECODE_SIZE, window=8192, ram_gib=0.0)
    order, draw = images.order(0, "order"), torch.Generator().manual_seed(0)
    count = len(shards) // BATCH * BATCH
    labels = torch.randint(0, rows.PARTS + 1, (BATCH, *rows.GRID), generator=draw, dtype=torch.uint8)

    def teacher() -> None:
        for row in shards.storage[:count]:
            decode_square(shards.bytes(int(row)), 224)

    def training() -> None:
        for start in range(0, count, BATCH):
            batch = images.batch(order.rows(start, BATCH))
            aspect = torch.from_numpy(batch.aspect)
            boxes = random_crops(BATCH, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), aspect=aspect, generator=draw)
            boxes, flips = snapped(boxes, torch.from_numpy(batch.sizes)), random_flips(BATCH, draw)
            maps = crop_labels(labels, boxes, flips, rows.GRID).flatten(1)
            semantic_mask(maps, ratio=0.75, alpha=0.5, num_parts=rows.PARTS, background="part", generator=draw)
            normalise(crop_images(batch.pixels, boxes, flips, (224, 224)))

    found = {}
    for name, work in (("decode_seconds", teacher), ("input_seconds", training)):
        work()
        found[name] = core_seconds(work, count)
    return found


def networks() -> dict[str, float]:
    """CPU seconds an image of the teacher and of a pretraining step, random weights and pixels."""
    import timm
    import torch

    from models.mae import MaskedAutoencoder
    from models.vit import initialise
    from parts.attention import extract_all
    from parts.masking import random_mask
    from training.adamw import AdamW
    from training.loop import update
    from training.schedules import decay_groups

    draw = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, 224, 224, generator=draw)
    vit = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    model = MaskedAutoencoder(**MASKED, **DECODER)
    initialise(model, draw)
    optimizer, scaler = (
        AdamW(decay_groups(model, 0.05), lr=1e-4, betas=(0.9, 0.95)),
        torch.amp.GradScaler(enabled=False),
    )

    def step() -> None:
        mask = random_mask(BATCH, GRID_LENGTH, ratio=0.75, generator=draw)
        update([model(images, mask)[0]], optimizer, clip=1.0, scaler=scaler)

    found = {}
    for name, work in (("extract_seconds", lambda: extract_all(vit, images)), ("step_seconds", step)):
        work()
        found[name] = core_seconds(work, BATCH)
    return found


def caches(folder: Path) -> dict[str, float]:
    """Bytes an image of attention, patch tokens and part labels, by the writers of the stages."""
    from shards.arrays import ArrayShardWriter
    from shards.mask_cache import MaskCacheWriter

    def size_of(name: str, count: int, columns: dict[str, tuple[str, tuple[int, ...]]]) -> float:
        draw = np.random.default_rng(0)
        values = {name: draw.random((count, *shape)).astype(kind) for name, (kind, shape) in columns.items()}
        with ArrayShardWriter(folder / name, columns=columns, header=rows.HEADER, shard_rows=count) as writer:
            writer.add(rows.ids_of(np.arange(count)), **values)
        return sum(path.stat().st_size for path in (folder / name).iterdir()) / count

    tokens = {"cls_token": ("<f2", (TEACHER_WIDTH,)), "cls_input": ("<f2", (TEACHER_WIDTH,))}
    with MaskCacheWriter(folder / "labels", header=rows.HEADER) as writer:
        ids = rows.ids_of(np.arange(rows.PAGE_ROWS))
        writer.add(ids, rows.labels_of(ids))
    return {
        "attention_bytes": size_of("all", 4096, {"cls_attention": ("<f2", (HEADS, GRID_LENGTH)), **tokens}),
        "token_bytes": size_of("tokens", 512, {"tokens": ("<f2", (GRID_LENGTH, TEACHER_WIDTH))}),
        "mask_bytes": sum(path.stat().st_size for path in (folder / "labels").iterdir()) / rows.PAGE_ROWS,
    }


def hashing() -> dict[str, float]:
    """Bytes a second of one core."""
    block = bytes(2**28)
    return {
        f"{name}_bytes_per_second": 1 / core_seconds(lambda name=name: hashlib.new(name, block), len(block))
        for name in ("md5", "sha256")
    }


def small_files(folder: Path, count: int) -> None:
    """Pictures of four pixels, none twice, in one class."""
    (folder / "some").mkdir(parents=True)
    for number in range(count):
        (folder / "some" / f"{number:08d}.ppm").write_bytes(b"P6 2 2 255\n" + number.to_bytes(12, "big"))


def sharded(folder: Path, count: int) -> None:
    """Image shards without images, as many rows a group and groups a shard as photographs have at 512 MiB."""
    from shards import image_shard_file
    from shards.image_shard_writer import ImageShardWriter

    image_shard_file.GROUP_ROWS = GROUP_IMAGES
    with ImageShardWriter(folder, classes=["a"], has_masks=False, shard_bytes=1024 * GROUP_IMAGES) as writer:
        for number, image_id in enumerate(rows.ids_of(np.arange(count)).tolist()):
            digest = hashlib.sha256(number.to_bytes(8, "big")).digest()
            writer.add("train", image_id=image_id, label=0, sha256=digest, image=b"x", path=f"{number:08d}.jpg")


def child_prepare(folder: Path, count: int) -> None:
    """prepare_data where the pictures are nothing."""
    prepare(folder, folder.with_name(f"{folder.name}-shards"))


def child_index(folder: Path, count: int) -> None:
    """Image shards as a training opens them: two thousand images from everywhere."""
    from shards.image_shards import ImageShards

    shards = ImageShards(folder, "train")
    for row in np.random.default_rng(0).integers(0, count, 2000):
        shards.bytes(int(row))


def child_probe(folder: Path, count: int) -> None:
    """kNN and the exact linear probe on features of a ViT-B, few iterations."""
    import torch

    from evaluation.knn import CHUNK, knn_predict
    from evaluation.linear import fit_linear_probe

    draw = np.random.default_rng(0)
    inputs = {split: draw.random((size, WIDTH), dtype=np.float32) for split, size in (("train", count), ("val", 10))}
    labels = {split: np.arange(len(values)) % CLASSES for split, values in inputs.items()}
    known, classes = torch.from_numpy(inputs["train"]), torch.from_numpy(labels["train"])
    knn_predict(known, classes, known[:CHUNK], k=20, temperature=0.07, num_classes=CLASSES)
    fit_linear_probe(inputs, labels, penalties=[1.0], max_iterations=3)


CHILDREN: dict[str, tuple[Callable[[Path, int], None], Callable[[Path, int], None] | None, tuple[int, int]]] = {
    "prepare": (child_prepare, small_files, FILES),
    "image_index": (child_index, sharded, SHARDED),
    "probe": (child_probe, None, FEATURES),
}


def slopes(folder: Path) -> dict[str, float]:
    """Peak memory an image of each child; and the CPU seconds an image of preparing nothing."""
    found = {}
    for name, (_, make, counts) in CHILDREN.items():
        peaks, seconds = [], []
        for count in counts:
            place = folder / f"{name}-{count}"
            if make is not None:
                make(place, count)
            command = [
                sys.executable,
                "-m",
                "benchmarks.scale",
                "--child",
                name,
                "--folder",
                str(place),
                "--images",
                str(count),
            ]
            answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            peaks.append(answer["peak"])
            seconds.append(answer["seconds"])
        found[f"{name}_bytes"] = (peaks[1] - peaks[0]) * 2**20 / (counts[1] - counts[0])
        if name == "prepare":
            found["prepare_serial_seconds"] = (seconds[1] - seconds[0]) / (counts[1] - counts[0])
    return found


def machine() -> dict[str, Any]:
    """In general terms."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory / 2**30)}


def measure(*, disk: str | None, beside: bool) -> dict[str, Any]:
    """What the record says of an image, and of when and where it was measured."""
    import torch

    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=disk) as name:
        folder = Path(name)
        for found in (preparing(folder), decoding(folder), networks(), caches(folder), hashing(), slopes(folder)):
            figures |= found
            print(json.dumps(found), file=sys.stderr, flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True).stdout
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.strip(),
        "machine": machine(),
        "beside_other_work": beside,
        "figures": figures,
    }


def of_rows(measured: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """The figures that many rows give: memory of a cache's ids, an image, and CPU seconds of a million lookups."""
    first, last = min(measured, key=int), max(measured, key=int)
    peaks = [measured[count]["index"]["peak"] for count in (first, last)]
    return {
        "mask_index_bytes": (peaks[1] - peaks[0]) * 2**20 / (int(last) - int(first)),
        "lookup_seconds": measured[first]["pretraining"][f"1M lookups in the order of training{rows.CPU}"],
    }


def main() -> None:
    """Measure, unless only the page is asked for; write record and page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, metavar="FILE", help="what `benchmarks.rows --json FILE` wrote")
    parser.add_argument("--render", action="store_true", help="measure nothing anew")
    parser.add_argument("--beside", action="store_true", help="say that other work shared the cores")
    parser.add_argument("--disk", help="folder on the disk to use, instead of the temporary one")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        seconds = core_seconds(lambda: CHILDREN[chosen.child][0](chosen.folder, chosen.images), 1)
        print(json.dumps({"peak": peak_mib(), "seconds": seconds}))
        return
    record = read_json(RECORD)
    if not chosen.render:
        record |= measure(disk=chosen.disk, beside=chosen.beside)
    if chosen.rows:
        record["rows"] = read_json(chosen.rows)
    record["figures"] |= of_rows(record["rows"])
    write_json(RECORD, record)
    write_text(PAGE, document(read_json(RECORD)))


if __name__ == "__main__":
    main()
