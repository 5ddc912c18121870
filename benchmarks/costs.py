"""The cost model of docs/scale.md: from figures an image and an A100's published rates to bytes, hours, and what breaks first.

Nothing is measured here: `benchmarks.scale` makes the record, `benchmarks.scale_page` the page.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

SIZES = {"10k": 10_000, "1.28M (ImageNet)": 1_281_167, "14M": 14_000_000, "100M": 100_000_000}
DEVICES = (1, 8, 64)
EPOCHS, FINETUNE_EPOCHS, PART_IMAGES, PART_EPOCHS, CLASSES = 800, 100, 100_000, 10, 1000
# Assumed, and said so in the document.
INFERENCE, SMALL_OVER_BASE, INFERENCE_OVER_TRAINING = 2226.0, 2.41, 2.83
IMAGE_BYTES, SHARD_BYTES, GROUP_IMAGES = 110_000, 2**29, 5
CORES, MACHINE, MEMORY = 16, 8, 24 * 2**30
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
            written=lambda images: (
                images * (figures["attention_bytes"] + mask) + min(images, PART_IMAGES) * figures["token_bytes"]
            ),
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
            spread=True,
        ),
    ]


@dataclass(frozen=True)
class Break:
    """What stops, at how many images, by which figure, and what then."""

    what: str
    images: float
    figure: str
    then: str


def breaks(figures: Figures) -> list[Break]:
    """Every bound that was found, in rising order."""
    by_name = {stage.name: stage for stage in stages(figures)}

    def memory(what: str, figure: str, then: str) -> Break:
        size = figures[figure]
        return Break(what, MEMORY / size, f"{size:,.0f} bytes an image in memory, of 24 GiB", then)

    def wall(what: str, name: str, limit: float, then: str) -> Break:
        each = by_name[name].wall(10**9, DEVICES[-1]) / 10**9
        return Break(what, limit / each, f"{shown_seconds(limit)} of wall time, {DEVICES[-1]} devices", then)

    hashing = figures["md5_bytes_per_second"]
    found = [
        memory(
            f"probe: kNN, exact linear probe, {CLASSES} classes", "probe_bytes", "features in bf16, or those of a part"
        ),
        memory("prepare_data: paths, hashes and order", "prepare_bytes", "parts of the data, a process each"),
        memory("opening the image shards", "image_index_bytes", "larger row groups, or several sets"),
        memory("ids of a mask cache", "mask_index_bytes", "keep them sorted on the disk"),
        wall("prepare_data, one process", "prepare_data", DAY, "parts of the data, a process each"),
        wall(f"finetune, {FINETUNE_EPOCHS} epochs", "finetune", 7 * DAY, "fewer epochs"),
        wall(f"pretrain, {EPOCHS} epochs", "pretrain", MONTH, "fewer epochs"),
        Break(
            "MD5 of the image shards by DVC",
            DAY * hashing / IMAGE_BYTES,
            f"a day of one core at {shown_bytes(hashing)}/s",
            "shards in a store, where their SHA-256 names them",
        ),
    ]
    return sorted(found, key=lambda entry: entry.images)


def shown_bytes(size: float) -> str:
    """Bytes in decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} PB"


def shown_seconds(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("h", HOUR, 48), ("d", DAY, float("inf"))):
        if seconds < most * length:
            value = seconds / length
            return f"{value:.2g} {unit}" if value < 9.5 else f"{value:,.0f} {unit}"
    raise AssertionError(seconds)


def shown_count(count: float) -> str:
    """A number of images or rows with two digits that count."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{_two_digits(count / size)} {unit}"
    return _two_digits(count)


def _two_digits(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"
