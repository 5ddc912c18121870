"""What a report is made of: metrics, statistics of masks, charts and pictures, gathered from the outs of the stages.

n shown images, K parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from config.groups import Arm
from images.augmentation import crop_labels, whole_images
from models.mae import MaskedAutoencoder
from parts.masking import random_mask, semantic_mask
from reports import figures
from reports.comparison import Row, headline
from reports.dissection import Dissection, dissect, load_decoder
from reports.dissection import inputs_of as teacher_inputs
from reports.figures import Chart
from reports.gallery import (
    SNAPSHOT_HEADS,
    PartMaps,
    Strip,
    head_strips,
    image_strip,
    mask_strips,
    part_strips,
    rebuilt_strip,
    reconstruction_strips,
    share_strips,
    single_part_strips,
    snapshot_strips,
)
from reports.map_tiles import part_colours
from reports.mask_statistics import POINTS, draw, hidden_spread, open_masks, shown_progress
from reports.portrait import portrait
from reports.reconstructions import inputs_of, load_autoencoder, reconstruct
from reports.results import Results
from reports.samples import Samples, choose
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache
from training.part_labels import FrozenParts
from training.randomness import generator
from training.snapshots import read_snapshots
from training.teacher import FrozenTeacher

# Images that get a picture of their own among the files, and that heads and maps are shown of on the page.
PORTRAITS, COMPARED = 3, 4
# More rows of a confusion matrix than these cannot be read; the predictions hold them all.
MOST_CLASSES = 30
# The colours of the legend are these parts'; raw and true ones have their own.
LEARNED = "learned parts"
DRAWN_MEASURES = {"nmi_foreground": "over the set", "nmi_foreground_per_image": "per image"}


@dataclass(frozen=True)
class Material:
    """All that the report tells.

    arms: name -> its definition. colours: arm -> CSS colour. spreads: arm -> std over parts of the hidden ratio at
    `POINTS` of training. usage: a (share of patches, share of images) a part, and background. part_measures: method
    -> measure -> number. alphas: arm -> alpha at each shown moment, None without a schedule. moments: shares of
    training. untested: classes without a test image. charts, pictures: by name. portraits: PNG files, an image each,
    of the first shown images.
    """

    rows: Sequence[Row]
    results: Results
    arms: Mapping[str, Mapping[str, object]]
    colours: Mapping[str, str]
    classes: int
    untested: Sequence[str]
    chance: float
    digest: str
    spreads: Mapping[str, Sequence[float]]
    spread_images: int
    usage: Sequence[tuple[float, float]]
    num_parts: int
    part_measures: Mapping[str, Mapping[str, float]]
    moments: Sequence[float]
    alphas: Mapping[str, Sequence[float | None]]
    charts: Mapping[str, Chart]
    pictures: Mapping[str, Sequence[Strip]]
    masks: Mapping[str, Sequence[Strip]]
    snapshots: Mapping[str, Sequence[Strip]]
    portraits: Sequence[bytes]

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with."""
        return self.rows[0].baseline

    def moment_labels(self, arm: str) -> list[str]:
        """Heads of the columns of an arm's mask pictures: the image, then alpha, or the share of training done."""
        moments = zip(self.moments, self.alphas[arm], strict=True)
        return ["image", *(f"{100 * at:.0f} %" if alpha is None else f"α {alpha:.2g}" for at, alpha in moments)]

    @property
    def others(self) -> list[str]:
        """The other arms, in their order."""
        return [arm for arm in self.results.arms if arm != self.baseline]


def gather(
    results: Results,
    rows: Sequence[Row],
    *,
    arms: Mapping[str, Arm],
    ratio: float,
    hint_share: float,
    pictures: int,
    mask_images: int,
    device: torch.device,
    root: Path = Path(),
) -> Material:
    """Draw masks, reconstructions and charts from the outs below `root`.

    arms: the definitions of the compared arms. ratio, hint_share: as in pretraining. pictures: images shown a figure.
    mask_images: training images that the statistics of the masks are taken over. Raises ValueError on a missing out.
    """
    train, test = (ImageShards(root / "data/shards", split) for split in ("train", "test"))
    learned = MaskCache(root / "masks/learned")
    num_parts = learned.header["num_parts"]
    samples = choose(test, pictures)
    trained = [name for name, arm in arms.items() if arm.mask != "none"]
    if not trained:
        raise ValueError(f"arms.names {list(arms)}: every arm is without masks; add one that is pretrained")
    models = {arm: load_autoencoder(root / "pretrained" / f"{arm}-{results.seeds[0]}").to(device) for arm in trained}
    grid = models[trained[0]].grid
    counted = train.ids[:mask_images]
    labels = learned.rows(counted)
    moments = shown_progress(next((arm.gamma for arm in arms.values() if arm.mask == "parts"), 1.0))
    spreads, masks, alphas = {}, {}, {}
    for name, arm in arms.items():
        if arm.mask == "none":
            continue
        options = {"arm": arm, "ratio": ratio, "hint_share": hint_share}
        drawn = open_masks(root / "arms" / name, ids=counted, **options)
        spreads[name] = hidden_spread(drawn, labels, num_parts=num_parts, grid=grid, seeds=results.seeds)
        drawn = open_masks(root / "arms" / name, ids=samples.ids, **options)
        steps = [draw(drawn, len(samples.ids), grid=grid, progress=at, seed=results.seeds[0]) for at in moments]
        masks[name] = mask_strips(samples, [mask.unflatten(1, grid).numpy() for mask, _ in steps], name)
        alphas[name] = [alpha for _, alpha in steps]
    maps = {LEARNED: PartMaps(learned.rows(samples.ids), num_parts)}
    raw = next((name for name, arm in arms.items() if arm.parts == "raw"), None)
    if raw is not None:
        cache = MaskCache(root / "arms" / raw)
        maps["raw attention"] = PartMaps(cache.rows(samples.ids), cache.header["num_parts"])
    seen = _dissection(samples, root, device)
    part_measures = measures_by_method(results.parts)
    colours = figures.arm_colours(results.arms, rows[0].baseline)
    return Material(
        rows=rows,
        results=results,
        arms={name: arm.model_dump() for name, arm in arms.items()},
        colours=colours,
        classes=len(test.classes),
        untested=[name for place, name in enumerate(test.classes) if place not in test.labels],
        chance=float(np.bincount(test.labels).max() / len(test)),
        digest=test.manifest["data_digest"],
        spreads=spreads,
        spread_images=len(counted),
        usage=part_usage(labels, num_parts, has_background=learned.header["background"] is not None),
        num_parts=num_parts,
        part_measures=part_measures,
        moments=moments,
        alphas=alphas,
        charts=_charts(
            results, rows, spreads=spreads, colours=colours, part_measures=part_measures, classes=test.classes
        ),
        pictures={
            "parts": part_strips(samples, maps),
            "single_parts": single_part_strips(samples.tiles, maps[LEARNED]),
            **_part_pictures(samples, seen),
            **_reconstructions(samples, models, maps[LEARNED], ratio=ratio, device=device),
        },
        masks=masks,
        snapshots={
            arm: snapshot_strips(arm, read_snapshots(root / "pretrained" / f"{arm}-{results.seeds[0]}"), grid)
            for arm in trained
        },
        portraits=[
            portrait(tile, seen, place, title=f"A test image: {samples.classes[place]}")
            for place, tile in enumerate(samples.tiles[:PORTRAITS])
        ],
    )


def _dissection(samples: Samples, root: Path, device: torch.device) -> Dissection:
    """The shown images through teacher, part learner and decoder: of test images no tokens are stored."""
    teacher, learner = FrozenTeacher(root / "teacher", device), FrozenParts(root / "part_learner", device)
    return dissect(
        teacher_inputs(samples.encoded, teacher), teacher, learner, load_decoder(root / "part_learner", device)
    )


def _part_pictures(samples: Samples, seen: Dissection) -> dict[str, list[Strip]]:
    """Attention heads, part maps, and what the decoder makes of the maps where it was trained."""
    few = samples.first(COMPARED)
    pictures = {
        "heads": [image_strip(few), *head_strips(few, seen.heads[:COMPARED])],
        "part_maps": [image_strip(few), *share_strips(few, seen.shares[:COMPARED], seen.num_parts)],
    }
    if seen.rebuilt is not None:
        pictures["rebuilt"] = [image_strip(samples), rebuilt_strip(seen.rebuilt)]
    return pictures


def _reconstructions(
    samples: Samples,
    models: Mapping[str, MaskedAutoencoder],
    parts: PartMaps,
    *,
    ratio: float,
    device: torch.device,
) -> dict[str, list[Strip]]:
    """What every arm predicts under the same masks: random ones, and ones that hide whole learned parts."""
    count, grid = len(samples.ids), next(iter(models.values())).grid
    labels = crop_labels(torch.from_numpy(parts.labels), *whole_images(count), grid).flatten(1)
    masks = {
        "reconstructions": random_mask(count, grid[0] * grid[1], ratio=ratio, generator=generator("report", "random")),
        "reconstructions_parts": semantic_mask(
            labels,
            ratio=ratio,
            alpha=1.0,
            num_parts=parts.num_parts,
            background="part",
            generator=generator("report", "parts"),
        ),
    }
    return {
        name: reconstruction_strips(
            samples,
            mask.unflatten(1, grid).numpy(),
            {
                arm: reconstruct(model, inputs_of(model, samples.encoded).to(device), mask.to(device))
                for arm, model in models.items()
            },
        )
        for name, mask in masks.items()
    }


def _charts(
    results: Results,
    rows: Sequence[Row],
    *,
    spreads: Mapping[str, Sequence[float]],
    colours: Mapping[str, str],
    part_measures: Mapping[str, Mapping[str, float]],
    classes: Sequence[str],
) -> dict[str, Chart]:
    told = headline(rows)
    charts = {"accuracies": figures.accuracies(told, colours)}
    for arm in (rows[0].baseline, next((row.arm for row in rows if not row.is_baseline), None)):
        counts = results.confusion(arm, "finetune_accuracy", len(classes)) if arm else None
        if counts is not None and 1 < len(classes) <= MOST_CLASSES:
            charts[f"confusion_{arm}"] = figures.confusion(counts, classes)
    if any(not row.is_baseline for row in told):
        charts["differences"] = figures.differences(told, colours)
    charts["hidden_ratio"] = figures.spreads(spreads, POINTS, colours)
    for name, found, label in (
        ("pretraining_loss", results.histories, "loss on hidden patches"),
        ("finetuning_loss", results.finetune_histories, "loss on training images"),
    ):
        runs = {
            arm: [found[arm, seed] for seed in results.seeds] for arm in results.arms if found[arm, results.seeds[0]]
        }
        charts[name] = figures.curves(runs, colours, label=label)
    for name, history in (("teacher_losses", results.teacher_history), ("part_losses", results.refine_history)):
        if history:
            charts[name] = figures.losses(history)
    if part_measures:
        charts["part_quality"] = figures.part_quality(part_measures, DRAWN_MEASURES, lead="learned")
    return charts


def measures_by_method(parts: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """`<method>/<measure>` -> number as method -> measure -> number, the best foreground NMI first."""
    found: dict[str, dict[str, float]] = {}
    for name, value in parts.items():
        method, _, measure = name.partition("/")
        if measure:
            found.setdefault(method, {})[measure] = value
    return dict(sorted(found.items(), key=lambda item: (-item[1].get("nmi_foreground", 0.0), item[0])))


def part_usage(labels: np.ndarray, num_parts: int, *, has_background: bool) -> list[tuple[float, float]]:
    """(share of patches, share of images) that each part has, and the background at the end where there is one.

    labels: (N, gh, gw).
    """
    shares = []
    for part in range(num_parts + has_background):
        found = labels == part
        shares.append((float(found.mean()), float(found.any(axis=(1, 2)).mean())))
    return shares


def sheets(material: Material) -> dict[str, bytes]:
    """The charts (light) and the pictures as PNG files by name, for use outside of the page."""
    files = {name: chart.light for name, chart in material.charts.items()}
    colours = part_colours(material.num_parts)
    for name, rows in material.pictures.items():
        legend = colours if name in ("parts", "single_parts", "part_maps") else None
        files[name] = figures.sheet([(row.label, row.pixels) for row in rows], legend=legend, legend_of=LEARNED)
    files |= {f"image_{place}": picture for place, picture in enumerate(material.portraits)}
    for arm, rows in material.masks.items():
        strips = [(row.label, row.pixels) for row in rows]
        files[f"masks_{arm}"] = figures.sheet(strips, heads=material.moment_labels(arm))
    for arm, rows in material.snapshots.items():
        files[f"snapshots_{arm}"] = figures.sheet([(row.label, row.pixels) for row in rows], heads=SNAPSHOT_HEADS)
    return files
