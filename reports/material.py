"""What a report shows: metrics, statistics of masks, charts and pictures, gathered from the outs of the stages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from config.arms import Arm
from reports import figures
from reports.comparison import headline
from reports.dissection import Dissection, dissect, load_decoder
from reports.figures import Chart
from reports.gallery import (
    SNAPSHOT_HEADS,
    PartMaps,
    Strip,
    head_strips,
    image_strip,
    part_strips,
    rebuilt_strip,
    share_strips,
    single_part_strips,
    snapshot_strips,
)
from reports.layout import sheet
from reports.map_tiles import part_colours
from reports.mask_statistics import Masks, masks_over_training
from reports.part_summary import DRAWN_MEASURES, Parts, part_measures, part_usage
from reports.portrait import portrait
from reports.reconstructions import load_autoencoder, reconstructions
from reports.results import Results
from reports.samples import Samples, choose
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache
from training.part_labels import FrozenParts
from training.snapshots import read_snapshots
from training.teacher import FrozenTeacher

# Images that get a picture of their own among the files, and those whose heads and maps are on the page.
PORTRAITS, COMPARED = 3, 4
# A larger confusion matrix is illegible; the predictions hold all classes.
MOST_CLASSES = 30
# The legend has the colours of these parts; raw and true parts have their own.
LEARNED = "learned parts"


@dataclass(frozen=True)
class TestSet:
    """Class names, those without a test image, the share of the largest class, and the digest of the whole data."""

    classes: Sequence[str]
    untested: Sequence[str]
    chance: float
    digest: str


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
    masks = masks_over_training(
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
            **reconstructions(samples, models, maps[LEARNED], ratio=ratio, device=device),
        },
        snapshots={arm: snapshot_strips(arm, read_snapshots(folder), grid) for arm, folder in folders.items()},
        portraits=[
            portrait(tile, dissection, place, title=f"A test image: {samples.classes[place]}")
            for place, tile in enumerate(samples.tiles[:PORTRAITS])
        ],
    )


def _part_maps(samples: Samples, learned: MaskCache, folder: Path, arms: Mapping[str, Arm]) -> dict[str, PartMaps]:
    """The learned parts of the shown images, and those of raw attention if an arm uses them."""
    caches = {LEARNED: learned}
    for arm in [name for name, arm in arms.items() if arm.parts == "raw"][:1]:
        caches["raw attention"] = MaskCache(folder / arm)
    return {name: PartMaps(cache.rows(samples.ids), cache.header["num_parts"]) for name, cache in caches.items()}


def _dissect(samples: Samples, root: Path, device: torch.device) -> Dissection:
    """The shown images through teacher, part learner and decoder: no tokens of test images are stored."""
    teacher, learner = FrozenTeacher(root / "teacher", device), FrozenParts(root / "part_learner", device)
    return dissect(samples.encoded, teacher, learner, load_decoder(root / "part_learner", device))


def _part_pictures(samples: Samples, seen: Dissection) -> dict[str, list[Strip]]:
    """Attention heads, part maps, and the decoder's images if a decoder was trained."""
    few = samples.first(COMPARED)
    pictures = {
        "heads": [image_strip(few), *head_strips(few, seen.heads[:COMPARED])],
        "part_maps": [image_strip(few), *share_strips(few, seen.shares[:COMPARED], seen.num_parts)],
    }
    if seen.rebuilt is not None:
        pictures["rebuilt"] = [image_strip(samples), rebuilt_strip(list(seen.rebuilt))]
    return pictures


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


def sheets(material: Material) -> dict[str, bytes]:
    """The charts (light) and the pictures as PNG files by name, for use outside of the page."""
    colours, masks = part_colours(material.parts.count), material.masks
    files = {name: chart.light for name, chart in material.charts.items()}
    for name, rows in material.pictures.items():
        legend = colours if name in ("parts", "single_parts", "part_maps") else None
        files[name] = sheet(rows, legend=legend, legend_of=LEARNED)
    files |= {f"image_{place}": picture for place, picture in enumerate(material.portraits)}
    files |= {f"masks_{arm}": sheet(rows, heads=masks.heads[arm]) for arm, rows in masks.strips.items()}
    for arm, rows in material.snapshots.items():
        files[f"snapshots_{arm}"] = sheet(rows, heads=SNAPSHOT_HEADS)
    return files
