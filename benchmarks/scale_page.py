"""docs/scale.md from the record of the measurements: tables and sentences, each number from the record or the cost model."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.costs import (
    CORES,
    DAY,
    DEVICES,
    EPOCHS,
    FINETUNE_EPOCHS,
    HOUR,
    IMAGE_BYTES,
    INFERENCE,
    INFERENCE_OVER_TRAINING,
    MACHINE,
    MEMORY,
    PART_IMAGES,
    SHARD_BYTES,
    SIZES,
    SMALL_OVER_BASE,
    Figures,
    breaks,
    device_rates,
    shown_bytes,
    shown_count,
    shown_seconds,
    stages,
)
from benchmarks.rows import CPU, STEPS

IMAGENET, LARGEST = SIZES["1.28M (ImageNet)"], SIZES["100M"]
BATCHED = 1_024_000
TEMPLATE = "[AITemplate](https://github.com/facebookincubator/AITemplate/blob/main/examples/04_vit)"
GIST = "[timm's author](https://gist.github.com/rwightman/6c37e408192f2a94d29023099445e13f), AMP, one GPU"
DAILY = "[DailyMAE](https://arxiv.org/abs/2404.00509)"


def document(record: Mapping[str, Any]) -> str:
    """The whole page. record: date, commit, machine, beside_other_work, figures, rows, before."""
    figures, machine, counts = record["figures"], record["machine"], sorted(map(int, record["rows"]))
    beside = "; other work shared the cores, so that times are upper bounds" if record["beside_other_work"] else ""
    return "\n\n".join(
        [
            "# Scale",
            paragraph(
                "What the paper's recipe costs (ViT-B/16 at 224 pixels, teacher ViT-S/16, `semmae preset imagenet-vitb16`), "
                f"from ten thousand images to a hundred million. Measured {record['date']}, commit {record['commit']}, on "
                f"{machine['cores']} cores of an {machine['cpu']} with {machine['memory_gib']} GiB{beside}: `python -m "
                "benchmarks.scale`. No GPU was at hand: what concerns one is assumed, and says so. `docs/scale.json` holds "
                "every measured figure; `python -m benchmarks.scale --render` makes this page of it, and a test compares."
            ),
            "## Assumed, not measured",
            _assumed(),
            "## Measured here",
            _measured(figures),
            "## Bytes on the disk",
            _bytes(figures),
            "## Device hours",
            "Of one arm and one seed; stages that use no device are left out.",
            _device_hours(figures),
            "## Wall time",
            f"On {' · '.join(map(str, DEVICES))} devices. {_spread(figures)} spread over all of them, every other stage is one "
            "process.",
            _wall(figures),
            "## What dominates",
            _dominates(figures),
            "## What breaks first",
            _breaks(figures),
            "## Mended on the way",
            _mended(figures, record["before"]),
            "## A hundred million rows without their pixels",
            paragraph(
                f"`python -m benchmarks.rows --rows {' '.join(map(str, counts))}`: a mask cache of synthetic labels from the "
                "real writer, each step in a process of its own. Seconds, in brackets those of the processor, whose growth the "
                "last column has; peak memory in MiB, of which Python and its libraries take 65, with torch (`pretraining`) some "
                "five hundred more. The first lookups in a process compare each file with its hash. They go in batches of "
                "1,024 where nothing else is said."
            ),
            _rows(record["rows"]),
        ]
    ) + "\n"  # fmt: skip


def paragraph(text: str) -> str:
    """Wrapped as the other pages are."""
    return textwrap.fill(text, 150, break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _hours(seconds: float) -> str:
    hours = seconds / HOUR
    return f"{hours:,.0f}" if hours >= 9.5 else f"{hours:.2g}"


def _assumed() -> str:
    rate = device_rates()
    share = rate["ViT-B/16 training"] / rate["MAE ViT-B/16 pretraining"]
    daily = EPOCHS * IMAGENET / (18 * HOUR * 8)
    training = f"a third of it, 1/{INFERENCE_OVER_TRAINING}: {rate['ViT-B/16 training']:,.0f} images/s"
    published = (
        f"its operations, {share:.2f} of those of the whole network, at the same speed. {DAILY} reports 800 epochs in 18 h on 8 "
        f"A100, partly at a lower resolution: {daily:,.0f} images/s each; and up to 5.8 times as long for the published code"
    )
    rows = [
        ("device", "an A100", ""),
        ("ViT-B/16, forward", f"{INFERENCE:,.0f} images/s", f"{TEMPLATE}, PyTorch eager, A100-40GB, batch 256"),
        ("ViT-S/16, forward", f"{SMALL_OVER_BASE} times that: {rate['ViT-S/16 forward']:,.0f} images/s", GIST),
        ("ViT-B/16, training", training, GIST),
        ("ViT-B/16, pretraining", f"{rate['MAE ViT-B/16 pretraining']:,.0f} images/s", published),
        ("image", shown_bytes(IMAGE_BYTES), "ImageNet-1k's training set, 138 GB"),
        ("CPU cores a device", str(CORES), f"machines of {MACHINE} devices and {CORES * MACHINE} cores"),
    ]
    return table(("what", "assumed", "from"), rows)


def _measured(figures: Figures) -> str:
    times = {
        "prepare_seconds": "prepare_data: read, check, hash and write a photograph",
        "prepare_serial_seconds": "prepare_data without pictures to speak of: what more workers do not make faster",
        "decode_seconds": "decode a photograph to 224 pixels for the teacher",
        "input_seconds": "input of pretraining: decode to 512 pixels, crop, mask",
        "extract_seconds": "teacher ViT-S/16 on the CPU: attention and tokens",
        "step_seconds": "pretraining step of ViT-B/16 on the CPU",
    }
    sizes = {
        "photograph_bytes": "the photograph, generated, 400 x 533 pixels",
        "shard_overhead_bytes": "an image shard, beyond the image's own bytes",
        "attention_bytes": "attention and class tokens",
        "token_bytes": "patch tokens, of `extract.part_images` images alone",
        "mask_bytes": "part labels; `raw` and `learned` are two such caches",
    }
    rows = [(text, f"{figures[name] * 1000:,.3g} ms of a core") for name, text in times.items()]
    rows += [(text, f"{figures[name]:,.0f} bytes") for name, text in sizes.items()]
    for name in ("md5", "sha256"):
        rows.append((f"{name.upper()}", f"{shown_bytes(figures[f'{name}_bytes_per_second'])}/s on a core"))
    return table(("an image", "measured"), rows)


def _bytes(figures: Figures) -> str:
    writing = [stage for stage in stages(figures) if stage.written(1)]
    rows = [(stage.name, *(shown_bytes(stage.written(count)) for count in SIZES.values())) for stage in writing]
    return table(("stage", *SIZES), rows)


def _device_hours(figures: Figures) -> str:
    every = [stage for stage in stages(figures) if stage.device(1)]
    rows = [(stage.name, *(_hours(stage.device(count)) for count in SIZES.values())) for stage in every]
    rows.append(("all", *(_hours(sum(stage.device(count) for stage in every)) for count in SIZES.values())))
    return table(("stage", *SIZES), rows)


def _spread(figures: Figures) -> str:
    *names, last = [f"`{stage.name}`" for stage in stages(figures) if stage.spread]
    return f"{', '.join(names)} and {last}"


def _wall(figures: Figures) -> str:
    rows = []
    for stage in stages(figures):
        times = ([shown_seconds(stage.wall(count, devices)) for devices in DEVICES] for count in SIZES.values())
        rows.append((stage.name, *(" · ".join(shown) for shown in times)))
    return table(("stage", *SIZES), rows)


def _dominates(figures: Figures) -> str:
    every, most, rate = stages(figures), DEVICES[-1], device_rates()
    by_name, pretraining = {stage.name: stage for stage in every}, rate["MAE ViT-B/16 pretraining"]
    costly = max(every, key=lambda stage: stage.device(LARGEST))
    share = costly.device(LARGEST) / sum(stage.device(LARGEST) for stage in every)
    slowest = max(every, key=lambda stage: stage.wall(LARGEST, most))
    caches = (figures["attention_bytes"] + 2 * figures["mask_bytes"]) / IMAGE_BYTES
    views = EPOCHS * IMAGENET
    lines = [
        f"Device hours: `{costly.name}`, {100 * share:.0f} % of all. Part learning ends growing at {PART_IMAGES:,} images.",
        f"Wall time on {most} devices: `{slowest.name}`, {shown_seconds(slowest.wall(LARGEST, most))} at 100M. Arms and seeds "
        "are jobs of their own, which `semmae run` places side by side.",
        f"Bytes: the images. Attention and both mask caches are {100 * caches:.1f} % of them.",
        f"CPU: a device that pretrains {pretraining:,.0f} images/s takes the decoding, crops and masks of "
        f"{pretraining * figures['input_seconds']:.1f} cores, one that a teacher runs on the decoding of "
        f"{rate['ViT-S/16 forward'] * figures['decode_seconds']:.0f}; {CORES} are assumed.",
        f"{EPOCHS} epochs of 100M images are {_hours(by_name['pretrain'].device(LARGEST))} device hours, "
        f"{shown_seconds(by_name['pretrain'].wall(LARGEST, most))} on {most} devices. As many views as the paper's {EPOCHS} "
        f"epochs of ImageNet are {views / LARGEST:.1f} epochs of them: {shown_seconds(views / pretraining / most)}.",
    ]
    return "\n".join(textwrap.indent(paragraph(line), "  ").replace("  ", "- ", 1) for line in lines)


def _breaks(figures: Figures) -> str:
    rows = [(entry.what, shown_count(entry.images), entry.figure, entry.then) for entry in breaks(figures)]
    shard = figures["manifest_shard_bytes"]
    manifest = shown_bytes(LARGEST * IMAGE_BYTES / SHARD_BYTES * shard)
    return "\n\n".join(
        [
            table(("what", "images", "at which it takes", "then"), rows),
            f"What does not: the manifest of the image shards ({shard:.0f} bytes a shard of 512 MiB, {manifest} at 100M), the "
            "order of training, the lookup of masks.",
        ]
    )


def _mended(figures: Figures, before: Mapping[str, Any]) -> str:
    rate, most, old = device_rates()["MAE ViT-B/16 pretraining"], DEVICES[-1], before["figures"]
    held, index = old["held_maps_bytes"], figures["mask_index_bytes"]
    scores, probe = old["probe_bytes"], figures["probe_bytes"]
    tuning = next(stage for stage in stages(figures) if stage.name == "finetune")
    rows = [
        (
            "maps of an arm",
            f"held whole by each process, {held:,.0f} bytes an image at the peak: {shown_count(MEMORY / held)} images in 24 GiB",
            f"read batch by batch, {index:,.0f} bytes an image while ids are sorted: {shown_count(MEMORY / index)}",
        ),
        (
            "lookups among 1M rows, in the order of training",
            f"{shown_count(BATCHED / old['lookup_seconds'])} rows/s, since each batch decoded whole shards",
            f"{shown_count(BATCHED / figures['lookup_seconds'])} rows/s: the rows alone are read",
        ),
        (
            "exact linear probe, 1,000 classes",
            f"the scores of all images at once, {scores:,.0f} bytes an image: {shown_count(MEMORY / scores)}",
            f"those of 4,096 images, {probe:,.0f} with kNN: {shown_count(MEMORY / probe)}",
        ),
        (
            f"pretraining on {most} devices",
            f"every process read every image and took its size, {old['measure_seconds'] * 1e6:.0f} µs: all that a core can from "
            f"{1 / (rate * old['measure_seconds']):.0f} devices on",
            "each reads the images of its part alone",
        ),
        (
            f"fine-tuning on {most} devices, {FINETUNE_EPOCHS} epochs",
            f"one process on one of them, {shown_seconds(tuning.wall(IMAGENET, 1))} at ImageNet and a week at "
            f"{shown_count(7 * DAY / tuning.wall(1, 1))} images",
            f"as many processes as devices, {shown_seconds(tuning.wall(IMAGENET, most))} and "
            f"{shown_count(7 * DAY / tuning.wall(1, most))}",
        ),
    ]
    return table(("what", f"before, commit {before['commit']}", "now"), rows)


def _rows(rows: Mapping[str, Mapping[str, Figures]]) -> str:
    counts = sorted(rows, key=int)
    lines = []
    for step in STEPS:
        facts = [name for name in rows[counts[0]][step] if not name.endswith(CPU)]
        for name in sorted(facts, key=lambda name: (name == "peak", name)):
            values = [rows[count][step][name] for count in counts]
            busy = [rows[count][step].get(f"{name}{CPU}") for count in counts]
            cells = [
                _number(a) if b is None else f"{_number(a)} ({_number(b)})" for a, b in zip(values, busy, strict=True)
            ]
            counted = [a if b is None else b for a, b in zip(values, busy, strict=True)]
            factor = f"{counted[-1] / counted[0]:,.3g}" if counted[0] else ""
            lines.append((step, "peak, MiB" if name == "peak" else name, *cells, factor))
    return table(("step", "", *(f"{int(count):,}" for count in counts), "last / first"), lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
