"""The cost model of docs/scale.md: from figures an image and an A100's published rates to bytes, hours, and what breaks first.

N images, D devices. Nothing is measured here: `benchmarks.scale` makes the record that this renders.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SIZES = {"10k": 10_000, "1.28M (ImageNet)": 1_281_167, "14M": 14_000_000, "100M": 100_000_000}
DEVICES = (1, 8, 64)
EPOCHS, FINETUNE_EPOCHS, PART_IMAGES, PART_EPOCHS, CLASSES = 800, 100, 100_000, 10, 1000
# Assumed, and said so in the document.
INFERENCE, SMALL_OVER_BASE, INFERENCE_OVER_TRAINING = 2226.0, 2.41, 2.83
IMAGE_BYTES, SHARD_BYTES, CORES, MACHINE, MEMORY = 110_000, 2**29, 16, 8, 24 * 2**30
HOUR, DAY, MONTH = 3600.0, 86400.0, 30 * 86400.0

Figures = Mapping[str, float]


def forward_operations(tokens: int, width: int, depth: int) -> float:
    """Operations of a transformer's forward pass: products of projections, MLP of four times the width, and attention."""
    return depth * (24.0 * tokens * width**2 + 4.0 * tokens**2 * width)


def device_rates() -> dict[str, float]:
    """Images a second of one device: ViT-B/16 and ViT-S/16 forward, fine-tuning, and MAE's pretraining step.

    Pretraining does as many operations a second as inference and training of the whole network: 49 of 196 patches go
    through the encoder, all through a decoder of eight blocks of 512.
    """
    whole = forward_operations(197, 768, 12)
    masked = forward_operations(50, 768, 12) + forward_operations(197, 512, 8)
    training = INFERENCE / INFERENCE_OVER_TRAINING
    return {
        "ViT-B/16 forward": INFERENCE,
        "ViT-S/16 forward": INFERENCE * SMALL_OVER_BASE,
        "ViT-B/16 training": training,
        "MAE ViT-B/16 pretraining": training * whole / masked,
    }


@dataclass(frozen=True)
class Stage:
    """What a stage costs at N images: device seconds, core seconds, bytes written; `serial` seconds that one core takes.

    spread: whether it goes over all devices; otherwise it is one process on one of them.
    """

    name: str
    device: Callable[[int], float] = lambda images: 0.0
    cores: Callable[[int], float] = lambda images: 0.0
    written: Callable[[int], float] = lambda images: 0.0
    serial: Callable[[int], float] = lambda images: 0.0
    spread: bool = False

    def wall(self, images: int, devices: int) -> float:
        """Seconds: what the slowest of devices, their cores and the serial part takes."""
        used = devices if self.spread else 1
        machine = CORES * (used if self.spread else min(devices, MACHINE))
        return max(self.device(images) / used, self.cores(images) / machine, self.serial(images))


def stages(figures: Figures) -> list[Stage]:
    """The stages of the paper's recipe, those of one arm and seed once."""
    rate = device_rates()
    small, base, training, masked = (
        rate[name] for name in ("ViT-S/16 forward", "ViT-B/16 forward", "ViT-B/16 training", "MAE ViT-B/16 pretraining")
    )
    decode, mask = figures["decode_seconds"], figures["mask_bytes"]
    return [
        Stage(
            "prepare_data",
            cores=lambda images: images * figures["prepare_seconds"],
            serial=lambda images: images * figures["prepare_serial_seconds"],
            written=lambda images: images * (IMAGE_BYTES + figures["shard_overhead_bytes"]),
        ),
        Stage(
            "extract_attention",
            device=lambda images: images / small,
            cores=lambda images: images * decode,
            written=lambda images: images * (figures["attention_bytes"] + mask)
            + min(images, PART_IMAGES) * figures["token_bytes"],
            spread=True,
        ),
        Stage(
            "refine_parts",
            device=lambda images: PART_EPOCHS * min(images, PART_IMAGES) / (small / INFERENCE_OVER_TRAINING),
        ),
        Stage(
            "cache_masks",
            device=lambda images: images / small,
            cores=lambda images: images * decode,
            written=lambda images: images * mask,
            spread=True,
        ),
        Stage(
            "pretrain",
            device=lambda images: EPOCHS * images / masked,
            cores=lambda images: EPOCHS * images * figures["input_seconds"],
            spread=True,
        ),
        Stage("probe", device=lambda images: images / base, cores=lambda images: images * decode),
        Stage(
            "finetune",
            device=lambda images: FINETUNE_EPOCHS * images / training,
            cores=lambda images: FINETUNE_EPOCHS * images * figures["input_seconds"],
        ),
    ]


@dataclass(frozen=True)
class Break:
    """What stops, at how many images (or devices), and why."""

    what: str
    at: float
    unit: str
    figure: str
    then: str


def breaks(figures: Figures) -> list[Break]:
    """Every bound that was found, those of images in rising order first, then those of devices."""
    rate = device_rates()
    found = [Stage.wall, stages(figures)]
    by_name = {stage.name: stage for stage in found[1]}

    def memory(what: str, name: str, then: str) -> Break:
        size = figures[name]
        return Break(what, MEMORY / size, "images", f"{shown_bytes(size)} an image in memory, of 24 GiB", then)

    def wall(what: str, name: str, devices: int, limit: float, then: str) -> Break:
        once = by_name[name].wall(10**9, devices) / 10**9
        return Break(what, limit / once, "images", f"{shown_seconds(limit)} of wall time on {devices} devices", then)

    by_images = [
        memory(f"linear probe, {CLASSES} classes", "probe_bytes", "fit on a part of the images, or in chunks"),
        memory("maps of an arm, held whole as they were", "held_maps_bytes", "done: read batch by batch"),
        memory("prepare_data: paths, hashes and order", "prepare_bytes", "prepare in parts"),
        memory("index of the image shards", "image_index_bytes", "a process a device, each with its own"),
        memory("index of the masks", "mask_index_bytes", "keep it sorted on the disk"),
        wall("prepare_data, in one process", "prepare_data", 64, DAY, "a process a part of the images"),
        wall("finetune, in one process", "finetune", 64, 7 * DAY, "several processes, as pretraining"),
        wall(f"pretrain, {EPOCHS} epochs", "pretrain", 64, MONTH, "fewer epochs"),
        Break(
            "DVC's MD5 of the image shards", DAY * figures["md5_bytes_per_second"] / IMAGE_BYTES, "images",
            f"a day at {shown_bytes(figures['md5_bytes_per_second'])}/s on one core", "shards in a store, named by hash",
        ),
    ]  # fmt: skip
    each = rate["MAE ViT-B/16 pretraining"]
    by_devices = Break(
        "pretrain: every process looks at the size of every image", 1 / (each * figures["measure_seconds"]), "devices",
        f"{figures['measure_seconds'] * 1e6:.0f} µs an image, one core of each process busy with it",
        "draw crops for the process's own images alone",
    )  # fmt: skip
    return [*sorted(by_images, key=lambda found: found.at), by_devices]


def shown_bytes(size: float) -> str:
    """Bytes in decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if size < 999.5 or unit == "PB":
            return f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError


def shown_seconds(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("h", HOUR, 48)):
        if seconds < most * length:
            return f"{seconds / length:.2g} {unit}" if seconds < 9.5 * length else f"{seconds / length:.0f} {unit}"
    return f"{seconds / DAY:.2g} d" if seconds < 9.5 * DAY else f"{seconds / DAY:,.0f} d"


def shown_count(count: float) -> str:
    """A number of images with two digits that count."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:,.2g} {unit}" if count < 99.5 * size else f"{count / size:,.0f} {unit}"
    return f"{count:.2g}" if count < 99.5 else f"{count:.0f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
