"""What a report shows: metrics, statistics of masks, charts and pictures, gathered from the outs of the stages.

n shown images, K parts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from config.groups import Arm
from images.augmentation import crop_labels, whole_images
from models.mae import MaskedAutoencoder
from parts.masking import random_mask, semantic_mask
from reports import figures
from reports.comparison import headline
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
from reports.map_tiles import colour_of, name_of, part_colours
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

# Images that get a picture of their own among the files, and those whose heads and maps are on the page.
PORTRAITS, COMPARED = 3, 4
# A larger confusion matrix is illegible; the predictions hold all classes.
MOST_CLASSES = 30
# The legend has the colours of these parts; raw and true parts have their own.
LEARNED = "learned parts"
# Part measures on the page, in this order; the first two are drawn. Figures over the whole set lead: within one image the
# position of a patch alone scores high.
PART_MEASURES = {
    "nmi_foreground": "NMI",
    "nmi_foreground_per_image": "per image",
    "ari_foreground": "ARI",
    "dead_parts": "dead parts",
    "miou": "mIoU",
    "foreground_iou": "foreground IoU",
    "nmi": "NMI with background",
    "ari": "ARI with background",
    "usage_entropy": "usage entropy",
    "position_information": "NMI with position",
    "colour_information": "NMI with colour",
}
DRAWN_MEASURES = {"nmi_foreground": "over the set", "nmi_foreground_per_image": "per image"}


@dataclass(frozen=True)
class TestSet:
    """Class names, those without a test image, the share of the largest class, and the digest of the whole data."""

    classes: Sequence[str]
    untested: Sequence[str]
    chance: float
    digest: str


@dataclass(frozen=True)
class Masks:
    """The masks of every pretrained arm over training.

    spreads: std over parts of the hidden ratio, a row for each of `POINTS` of training and a column an arm, over `images`
    training images. strips: arm -> an image a row, under the masks at `moments` of training. heads: arm -> heads of the
    strips' columns.
    """

    spreads: pd.DataFrame
    images: int
    moments: Sequence[float]
    heads: Mapping[str, Sequence[str]]
    strips: Mapping[str, Sequence[Strip]]


class Usage(NamedTuple):
    """A part or the background: its name, CSS colour, and the shares of patches and of images that have it."""

    name: str
    colour: str
    patches: float
    images: float


@dataclass(frozen=True)
class Parts:
    """The learned parts. measures: a row a method and a column a measure, best first; empty without part labels."""

    count: int
    usage: Sequence[Usage]
    measures: pd.DataFrame


@dataclass(frozen=True)
class Material:
    """All that the report shows.

    rows: of `reports.comparison.compare`. arms: name -> definition. colours: arm -> CSS colour. charts, pictures: by name.
    snapshots: arm -> reconstructions over training. portraits: PNG files, one for each of the first shown images.
    """

    results: Results
    rows: pd.DataFrame
    arms: Mapping[str, Arm]
    colours: Mapping[str, str]
    test: TestSet
    masks: Masks
    parts: Parts
    charts: Mapping[str, Chart]
    pictures: Mapping[str, Sequence[Strip]]
    snapshots: Mapping[str, Sequence[Strip]]
    portraits: Sequence[bytes]

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with."""
        return self.rows["baseline"].iloc[0]

    @property
    def others(self) -> list[str]:
        """The other arms, in their order."""
        return [arm for arm in self.arms if arm != self.baseline]


def gather(
    results: Results,
    rows: pd.DataFrame,
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

    arms: the definitions of the compared arms. ratio, hint_share: as in pretraining. pictures: images in each figure.
    mask_images: training images for the statistics of the masks. Raises ValueError if an out is missing.
    """
    trained = {name: arm for name, arm in arms.items() if arm.mask != "none"}
    if not trained:
        raise ValueError(f"arms.names {list(arms)}: every arm is without masks; add one that is pretrained")
    train, test = (ImageShards(root / "data/shards", split) for split in ("train", "test"))
    samples, learned = choose(test, pictures), MaskCache(root / "masks/learned")
    folders = {arm: root / "pretrained" / f"{arm}-{results.seeds[0]}" for arm in trained}
    models = {arm: load_autoencoder(folder).to(device) for arm, folder in folders.items()}
    grid = next(iter(models.values())).grid
    labels = PartMaps(learned.rows(train.ids[:mask_images]), learned.header["num_parts"])
    masks = _masks(
        root / "arms",
        trained,
        train.ids[:mask_images],
        labels,
        samples,
        grid,
        results.seeds,
        ratio=ratio,
        hint=hint_share,
    )
    parts = Parts(
        labels.num_parts,
        part_usage(*labels, has_background=learned.header["background"] is not None),
        part_measures(results.parts),
    )
    colours = figures.arm_colours(results.arms, rows["baseline"].iloc[0])
    dissection = _dissect(samples, root, device)
    maps = _part_maps(samples, learned, root / "arms", arms)
    return Material(
        results=results,
        rows=rows,
        arms=arms,
        colours=colours,
        test=TestSet(
            classes=test.classes,
            untested=[name for place, name in enumerate(test.classes) if place not in test.labels],
            chance=float(np.bincount(test.labels).max() / len(test)),
            digest=test.manifest["data_digest"],
        ),
        masks=masks,
        parts=parts,
        charts=dict(_charts(results, rows, colours, masks.spreads, parts.measures, test.classes)),
        pictures={
            "parts": part_strips(samples, maps),
            "single_parts": single_part_strips(samples.tiles, maps[LEARNED]),
            **_part_pictures(samples, dissection),
            **_reconstructions(samples, models, maps[LEARNED], ratio=ratio, device=device),
        },
        snapshots={arm: snapshot_strips(arm, read_snapshots(folder), grid) for arm, folder in folders.items()},
        portraits=[
            portrait(tile, dissection, place, title=f"A test image: {samples.classes[place]}")
            for place, tile in enumerate(samples.tiles[:PORTRAITS])
        ],
    )


def _masks(
    folder: Path,
    arms: Mapping[str, Arm],
    ids: np.ndarray,
    labels: PartMaps,
    samples: Samples,
    grid: tuple[int, int],
    seeds: Sequence[int],
    *,
    ratio: float,
    hint: float,
) -> Masks:
    """Masks of the shown images, and statistics over the training images `ids`, whose part labels are `labels`."""
    moments = shown_progress(next((arm.gamma for arm in arms.values() if arm.mask == "parts"), 1.0))
    spreads, heads, strips = {}, {}, {}
    for name, arm in arms.items():
        counted, shown = (
            open_masks(folder / name, arm=arm, ids=some, ratio=ratio, hint_share=hint) for some in (ids, samples.ids)
        )
        spreads[name] = hidden_spread(counted, labels.labels, num_parts=labels.num_parts, grid=grid, seeds=seeds)
        drawn = [draw(shown, len(samples.ids), grid=grid, progress=at, seed=seeds[0]) for at in moments]
        strips[name] = mask_strips(samples, [mask.unflatten(1, grid).numpy() for mask, _ in drawn], name)
        alphas = [alpha for _, alpha in drawn]
        heads[name] = ["image", *map(_moment, moments, alphas)]
    return Masks(pd.DataFrame(spreads, index=POINTS), len(ids), moments, heads, strips)


def _moment(progress: float, alpha: float | None) -> str:
    """Alpha if the arm has a schedule, otherwise the share of training done."""
    return f"{100 * progress:.0f} %" if alpha is None else f"α {alpha:.2g}"


def _part_maps(samples: Samples, learned: MaskCache, folder: Path, arms: Mapping[str, Arm]) -> dict[str, PartMaps]:
    """The learned parts of the shown images, and those of raw attention if an arm uses them."""
    caches = {LEARNED: learned}
    for arm in [name for name, arm in arms.items() if arm.parts == "raw"][:1]:
        caches["raw attention"] = MaskCache(folder / arm)
    return {name: PartMaps(cache.rows(samples.ids), cache.header["num_parts"]) for name, cache in caches.items()}


def _dissect(samples: Samples, root: Path, device: torch.device) -> Dissection:
    """The shown images through teacher, part learner and decoder: no tokens of test images are stored."""
    teacher, learner = FrozenTeacher(root / "teacher", device), FrozenParts(root / "part_learner", device)
    return dissect(
        teacher_inputs(samples.encoded, teacher), teacher, learner, load_decoder(root / "part_learner", device)
    )


def _part_pictures(samples: Samples, seen: Dissection) -> dict[str, list[Strip]]:
    """Attention heads, part maps, and the decoder's images if a decoder was trained."""
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
    """Every arm's predictions under the same masks: random ones, and ones that hide whole learned parts."""
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
    rows: pd.DataFrame,
    colours: Mapping[str, str],
    spreads: pd.DataFrame,
    measures: pd.DataFrame,
    classes: Sequence[str],
) -> Iterator[tuple[str, Chart]]:
    """Name and chart, of all charts that the data allow."""
    leading, baseline = headline(rows), rows["baseline"].iloc[0]
    others = [arm for arm in results.arms if arm != baseline]
    yield "accuracies", figures.accuracies(leading, colours)
    if others:
        yield "differences", figures.differences(leading, colours)
    for arm in (baseline, *others[:1]):
        counts = results.confusion(arm, "finetune_accuracy", len(classes))
        if counts is not None and 1 < len(classes) <= MOST_CLASSES:
            yield f"confusion_{arm}", figures.confusion(counts, classes)
    yield "hidden_ratio", figures.spreads(spreads, colours)
    yield "pretraining_loss", figures.curves(results.pretraining, colours, label="loss on hidden patches")
    yield "finetuning_loss", figures.curves(results.finetuning, colours, label="loss on training images")
    if results.teacher_history:
        yield "teacher_losses", figures.losses(results.teacher_history)
    if results.refine_history:
        yield "part_losses", figures.losses(results.refine_history)
    if not measures.empty:
        yield "part_quality", figures.part_quality(measures, DRAWN_MEASURES, lead="learned")


def part_measures(metrics: Mapping[str, float]) -> pd.DataFrame:
    """`<method>/<measure>` -> number as a row a method and a column a measure, the best foreground NMI first."""
    measures = {tuple(name.split("/")): value for name, value in metrics.items() if "/" in name}
    if not measures:
        return pd.DataFrame()
    return pd.Series(measures, dtype=float).unstack().sort_values("nmi_foreground", ascending=False, kind="stable")


def part_usage(labels: np.ndarray, num_parts: int, *, has_background: bool) -> list[Usage]:
    """How much each part is used, and the background at the end if there is one. labels: (N, gh, gw)."""
    return [
        Usage(
            name_of(label, num_parts),
            "rgb({} {} {})".format(*colour_of(label, num_parts)),
            float((labels == label).mean()),
            float((labels == label).any(axis=(1, 2)).mean()),
        )
        for label in range(num_parts + has_background)
    ]


def sheets(material: Material) -> dict[str, bytes]:
    """The charts (light) and the pictures as PNG files by name, for use outside of the page."""
    colours, masks = part_colours(material.parts.count), material.masks
    files = {name: chart.light for name, chart in material.charts.items()}
    for name, rows in material.pictures.items():
        legend = colours if name in ("parts", "single_parts", "part_maps") else None
        files[name] = figures.sheet(rows, legend=legend, legend_of=LEARNED)
    files |= {f"image_{place}": picture for place, picture in enumerate(material.portraits)}
    files |= {f"masks_{arm}": figures.sheet(rows, heads=masks.heads[arm]) for arm, rows in masks.strips.items()}
    for arm, rows in material.snapshots.items():
        files[f"snapshots_{arm}"] = figures.sheet(rows, heads=SNAPSHOT_HEADS)
    return files
