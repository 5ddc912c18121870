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
IMAGE_BYTES, SHARD_BYTES, GROUP_IMAGES, CORES, MACHINE, MEMORY = 110_000, 2**29, 5, 16, 8, 24 * 2**30
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
        memory(f"exact linear probe, {CLASSES} classes", "probe_bytes", "fit on part of the images, or sum the gradient in chunks"),
        memory("prepare_data: paths, hashes and order", "prepare_bytes", "prepare parts of the data, each in a process"),
        memory("opening the image shards", "image_index_bytes", "shared between the processes of a machine"),
        memory("ids of a mask cache", "mask_index_bytes", "keep them sorted on the disk"),
        wall("prepare_data, one process", "prepare_data", DAY, "prepare parts of the data, each in a process"),
        wall(f"finetune, {FINETUNE_EPOCHS} epochs in one process", "finetune", 7 * DAY, "several processes, as pretraining has"),
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


def document(record: Mapping[str, Any]) -> str:
    """docs/scale.md, whole, from the record of the measurements: date, commit, machine, figures, rows, before."""
    figures, machine = record["figures"], record["machine"]
    beside = "; other work shared the cores, so times are upper bounds" if record["beside_other_work"] else ""
    return "\n\n".join(
        [
            "# Scale",
            f"What the paper's recipe costs (ViT-B/16 at 224 pixels, teacher ViT-S/16, `semmae preset imagenet-vitb16`), from ten "
            f"thousand images to a hundred million.\nMeasured {record['date']}, commit {record['commit']}, on {machine['cores']} "
            f"cores of an {machine['cpu']} with {machine['memory_gib']} GiB{beside}:\n`python -m benchmarks.scale`. No GPU was at "
            "hand: what concerns one is assumed, and says so. `docs/scale.json` holds every measured figure, and a test holds\n"
            "this page to it; `python -m benchmarks.scale --render` writes it anew.",
            "## Assumed, not measured",
            _assumed(),
            "## Measured here",
            _measured(figures),
            "## Bytes on the disk",
            _bytes(figures),
            "## Device hours",
            "Of one arm and one seed. Stages without a device are left out.",
            _device_hours(figures),
            "## Wall time",
            f"On {', '.join(map(str, DEVICES[:-1]))} and {DEVICES[-1]} devices. `extract_attention`, `cache_masks` and `pretrain` "
            "spread over all of them; every other stage is one process on one.",
            _wall(figures),
            "## What dominates",
            _dominates(figures),
            "## What breaks first",
            _breaks(figures),
            "## Mended on the way",
            _mended(figures, record["before"]),
            "## A hundred million rows without their pixels",
            "`python -m benchmarks.rows --rows " + " ".join(f"{float(count):.0e}".replace("e+0", "e") for count in record["rows"])
            + "`: a mask cache of synthetic labels, written by the real writer; each step in a\nprocess of its own. Seconds, and peak "
            "memory in MiB. Lookups are in batches of 1,024 where it does not say otherwise.",
            _rows(record["rows"]),
        ]
    ) + "\n"  # fmt: skip


def _assumed() -> str:
    rate = device_rates()
    share = rate["ViT-B/16 training"] / rate["MAE ViT-B/16 pretraining"]
    gist = "[timm's author](https://gist.github.com/rwightman/6c37e408192f2a94d29023099445e13f), AMP, one GPU"
    daily = 800 * SIZES["1.28M (ImageNet)"] / (18 * HOUR * 8)
    rows = [
        ("a device", "an A100", ""),
        (
            "ViT-B/16 forward", f"{INFERENCE:,.0f} images/s",
            "[AITemplate](https://github.com/facebookincubator/AITemplate/blob/main/examples/04_vit), PyTorch eager, A100-40GB, batch 256",
        ),
        ("ViT-S/16 forward", f"{SMALL_OVER_BASE} times as fast: {rate['ViT-S/16 forward']:,.0f} images/s", gist),
        ("training", f"forward takes 1/{INFERENCE_OVER_TRAINING}: {rate['ViT-B/16 training']:,.0f} images/s", gist),
        (
            "pretraining step", f"{rate['MAE ViT-B/16 pretraining']:,.0f} images/s",
            f"its operations are {share:.2f} of those of the whole network, at the same speed. "
            f"[DailyMAE](https://arxiv.org/abs/2404.00509) reports 18 h for 800 epochs on 8 A100, partly at a lower resolution: {daily:,.0f} "
            f"images/s each; and 5.8 times as long, bound by input, for the published code: {daily / 5.8:,.0f}",
        ),
        ("an image", shown_bytes(IMAGE_BYTES), "ImageNet-1k's training set: 138 GB"),
        ("CPU cores a device", str(CORES), f"machines of {MACHINE} devices and {CORES * MACHINE} cores"),
    ]  # fmt: skip
    return table(("what", "value", "from"), rows)


def _measured(figures: Figures) -> str:
    names = {
        "prepare_seconds": "prepare_data: read, check, hash, write a photograph",
        "prepare_serial_seconds": "of it in one thread, whatever the number of workers",
        "decode_seconds": "decode a photograph to 224 pixels for the teacher",
        "input_seconds": "pretraining's input: decode to 512 pixels, crop, mask",
        "extract_seconds": "teacher ViT-S/16, attention and tokens, on the CPU",
        "step_seconds": "pretraining step of ViT-B/16, on the CPU",
    }
    rows = [(text, f"{figures[name] * 1000:.3g} ms of one core") for name, text in names.items()]
    sizes = {
        "photograph_bytes": "photograph, generated, 400 x 533 pixels",
        "shard_overhead_bytes": "image shards beyond the image's own bytes",
        "attention_bytes": "attention and class tokens",
        "token_bytes": "patch tokens, of `extract.part_images` images",
        "mask_bytes": "part labels, a cache (learned and raw are two)",
    }
    rows += [(text, f"{figures[name]:,.1f} bytes") for name, text in sizes.items()]
    rows += [
        (f"{name.upper()} of a file", f"{shown_bytes(figures[f'{name}_bytes_per_second'])}/s") for name in ("md5", "sha256")
    ]
    return table(("an image", "measured"), rows)


def _bytes(figures: Figures) -> str:
    rows = [
        (stage.name, *(shown_bytes(stage.written(count)) for count in SIZES.values()))
        for stage in stages(figures)
        if stage.written(1)
    ]
    return table(("stage", *SIZES), rows)


def _device_hours(figures: Figures) -> str:
    every = [stage for stage in stages(figures) if stage.device(1)]
    rows = [(stage.name, *(_hours(stage.device(count)) for count in SIZES.values())) for stage in every]
    rows.append(("all", *(_hours(sum(stage.device(count) for stage in every)) for count in SIZES.values())))
    return table(("stage", *SIZES), rows)


def _hours(seconds: float) -> str:
    hours = seconds / HOUR
    return f"{hours:,.0f}" if hours >= 9.5 else f"{hours:.2g}"


def _wall(figures: Figures) -> str:
    rows = []
    for stage in stages(figures):
        shown = (" · ".join(shown_seconds(stage.wall(count, devices)) for devices in DEVICES) for count in SIZES.values())
        rows.append((stage.name, *shown))
    return table(("stage", *SIZES), rows)


def _dominates(figures: Figures) -> str:
    every, most = stages(figures), DEVICES[-1]
    largest = SIZES["100M"]
    device = max(every, key=lambda stage: stage.device(largest))
    share = device.device(largest) / sum(stage.device(largest) for stage in every)
    slowest = max(every, key=lambda stage: stage.wall(largest, most))
    by_name = {stage.name: stage for stage in every}
    rate = device_rates()["MAE ViT-B/16 pretraining"]
    views = EPOCHS * SIZES["1.28M (ImageNet)"]
    lines = [
        f"- Device hours: `{device.name}`, {100 * share:.0f} % of all. Part learning does not grow beyond {PART_IMAGES:,} images.",
        f"- Wall time on {most} devices: `{slowest.name}`, {shown_seconds(slowest.wall(largest, most))} at 100M. Arms and seeds are "
        "jobs of their own, which `semmae run` places side by side.",
        f"- Bytes: the images themselves. Attention and two mask caches are "
        f"{100 * (figures['attention_bytes'] + 2 * figures['mask_bytes']) / IMAGE_BYTES:.1f} % of them.",
        f"- CPU: a device that pretrains {rate:,.0f} images/s needs {rate * figures['input_seconds']:.1f} cores for decoding, crops and "
        f"masks; a teacher on a device {device_rates()['ViT-S/16 forward'] * figures['decode_seconds']:.0f} of the {CORES} assumed.",
        f"- {EPOCHS} epochs of 100M images take {_hours(by_name['pretrain'].device(largest))} device hours, "
        f"{shown_seconds(by_name['pretrain'].wall(largest, most))} on {most} devices. As many views as the paper's {EPOCHS} epochs of "
        f"ImageNet are {views / largest:.1f} epochs of 100M: {shown_seconds(views / rate / most)} on {most}.",
    ]
    return "\n".join(lines)


def _breaks(figures: Figures) -> str:
    rows = [(entry.what, shown_count(entry.images), entry.figure, entry.then) for entry in breaks(figures)]
    shard = figures["manifest_shard_bytes"]
    size = SIZES["100M"] * IMAGE_BYTES / SHARD_BYTES * shard
    note = (
        f"What does not break: the manifest of the image shards ({shard:.0f} bytes a shard of 512 MiB: {shown_bytes(size)} at 100M), the "
        "order of training, the lookups of masks (below)."
    )
    return table(("what", "at images", "where it exceeds", "what then"), rows) + "\n\n" + note


def _mended(figures: Figures, before: Mapping[str, Any]) -> str:
    rate = device_rates()["MAE ViT-B/16 pretraining"]
    old, index = before["figures"], figures["mask_index_bytes"]
    most = DEVICES[-1]
    rows = [
        (
            "maps of an arm",
            f"all held by each process: {old['held_maps_bytes']:,.0f} bytes an image at its peak, {shown_count(MEMORY / old['held_maps_bytes'])} "
            "images in 24 GiB",
            f"read batch by batch; {index:,.0f} bytes an image while its ids are sorted: {shown_count(MEMORY / index)}",
        ),
        (
            "1M lookups in the order of training, 1M rows",
            f"{shown_count(1.024e6 / old['lookup_seconds'])} rows/s: whole shards of 65,536 rows are decoded for each batch",
            f"{shown_count(1.024e6 / figures['lookup_seconds'])} rows/s: the rows alone, of a file that is mapped",
        ),
        (
            f"pretraining on {most} devices",
            f"every process read every image and looked at its size, {old['measure_seconds'] * 1e6:.0f} µs: more than one core from "
            f"{1 / (rate * old['measure_seconds']):.0f} devices on",
            "each reads the images of its part",
        ),
    ]  # fmt: skip
    return table(("what", f"before (commit {before['commit']})", "now"), rows)


def _rows(rows: Mapping[str, Mapping[str, Figures]]) -> str:
    counts = sorted(rows, key=int)
    lines = []
    for step, facts in rows[counts[0]].items():
        for name in facts:
            values = [rows[count][step][name] for count in counts]
            factor = values[-1] / values[0] if values[0] else float("nan")
            label = "peak MiB" if name == "peak" else name
            lines.append((step, label, *(_number(value) for value in values), f"{factor:,.1f}"))
    return table(("step", "", *(f"{int(count):,}" for count in counts), "last / first"), lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
