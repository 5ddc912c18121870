"""What a report shows: metrics, statistics of masks, charts and pictures, gathered from the outs of the stages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
import torch

from config.arms import Arm
from config.presets import changes_to_preset
from config.redaction import redacted
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
from reports.pictures import png
from reports.portrait import portrait
from reports.reconstructions import load_autoencoder, reconstructions
from reports.results import Results
from reports.samples import Samples, choose
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache
from shards.mask_shards import MaskShards
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
    """Class names, none without labels, those without a test image, and the digest of the whole data.

    largest_class, chance: accuracy of always answering the largest class, and of guessing; NaN without labels.
    """

    classes: Sequence[str]
    untested: Sequence[str]
    largest_class: float
    chance: float
    digest: str


@dataclass(frozen=True)
class Material:
    """All that the report shows.

    rows: of `reports.comparison.compare` with `baseline`. preset: its name. changes: parameter -> (value there, value here)
    of those that differ from it. arms: name -> definition. colours: arm -> CSS colour. charts,
    pictures: by name. snapshots: arm -> reconstructions over training. portraits: PNG files, one for each of the first
    shown images.
    """

    results: Results
    rows: pd.DataFrame
    baseline: str
    preset: str
    changes: Mapping[str, tuple[str, str]]
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
    def others(self) -> list[str]:
        """The other arms, in their order."""
        return [arm for arm in self.arms if arm != self.baseline]


def gather(
    results: Results,
    rows: pd.DataFrame,
    *,
    baseline: str,
    arms: Mapping[str, Arm],
    ratio: float,
    hint_share: float,
    pictures: int,
    mask_images: int,
    device: torch.device,
    root: Path = Path(),
) -> Material:
    """Draw masks, reconstructions and charts from the outs below `root`; read params.yaml there.

    rows, baseline: of `compare`. arms: the definitions of the compared arms. ratio, hint_share: as in pretraining.
    pictures: images in each figure. mask_images: training images for the statistics of the masks. Raises ValueError if an
    out is missing.
    """
    trained = {name: arm for name, arm in arms.items() if arm.mask != "none"}
    if not trained:
        raise ValueError(f"arms.names {list(arms)}: every arm is without masks; add one that is pretrained")
    train, test = (ImageShards(root / "data/shards", split) for split in ("train", "test"))
    samples = choose(test, MaskShards(root / "data/masks", "test"), pictures)
    learned = MaskCache(root / "masks/learned")
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
    colours = figures.arm_colours(results.arms, baseline)
    dissection = _dissect(samples, root, device)
    maps = _part_maps(samples, learned, root / "arms", arms)
    preset, changes = read_changes(root / "params.yaml")
    return Material(
        results=results,
        rows=rows,
        baseline=baseline,
        preset=preset,
        changes=changes,
        arms=arms,
        colours=colours,
        test=_test_set(test),
        masks=masks,
        parts=parts,
        charts=dict(_charts(results, rows, baseline, colours, masks, parts.measures, test.classes)),
        pictures={
            "parts": part_strips(samples, maps),
            "single_parts": single_part_strips(samples.tiles, maps[LEARNED]),
            **_part_pictures(samples, dissection),
            **reconstructions(samples, models, maps[LEARNED], ratio=ratio, device=device),
        },
        snapshots={arm: snapshot_strips(arm, read_snapshots(folder), grid) for arm, folder in folders.items()},
        portraits=[
            portrait(
                tile, dissection, place, title=f"A test image{samples.drawn[place] and f': {samples.drawn[place]}'}"
            )
            for place, tile in enumerate(samples.tiles[:PORTRAITS])
        ],
    )


def read_changes(path: Path) -> tuple[str, dict[str, tuple[str, str]]]:
    """(preset, parameter -> (value there, value here)) of the parameters that differ from it, as text."""
    preset, changes = changes_to_preset(path)
    return preset, {name: (_text(there), _text(here)) for name, (there, here) in changes.items()}


def _text(value: object) -> str:
    """Of an absolute path its end alone, because the rest is of one machine."""
    text = redacted(str(value))
    return f"…/{PurePath(text).name}" if PurePath(text).is_absolute() else text


def _test_set(test: ImageShards) -> TestSet:
    counts = np.bincount(test.labels[test.labels >= 0], minlength=len(test.classes))
    present = counts > 0
    return TestSet(
        classes=test.classes,
        untested=[name for name, is_present in zip(test.classes, present, strict=True) if not is_present],
        largest_class=counts.max() / counts.sum() if present.any() else np.nan,
        chance=1 / present.sum() if present.any() else np.nan,
        digest=test.manifest["data_digest"],
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
    baseline: str,
    colours: Mapping[str, str],
    masks: Masks,
    measures: pd.DataFrame,
    classes: Sequence[str],
) -> Iterator[tuple[str, Chart]]:
    """Name and chart, of all charts that the data allow."""
    leading, others = headline(rows), [arm for arm in results.arms if arm != baseline]
    if not leading.empty:
        yield "accuracies", figures.accuracies(leading, colours)
    if others and not leading.empty:
        yield "differences", figures.differences(leading, colours)
    for arm in (baseline, *others[:1]):
        counts = results.confusion(arm, "finetune_accuracy", len(classes))
        if counts is not None and 1 < len(classes) <= MOST_CLASSES:
            yield f"confusion_{arm}", figures.confusion(counts, classes)
    for name, values, label, top in (
        ("hidden_ratio", masks.spreads, "std of the hidden ratio over parts", 0.4),
        ("hidden_foreground", masks.foreground, "hidden share of the foreground", 1.0),
    ):
        yield name, figures.over_training(values, colours, label=label, top=top)
    for metric, label in (("knn_accuracy", "kNN accuracy, share"), ("rankme", "RankMe")):
        if metric in results.pretraining:
            yield metric, figures.curves(results.pretraining, colours, label=label, metric=metric)
    yield "pretraining_loss", figures.curves(results.pretraining, colours, label="loss on hidden patches")
    if not results.finetuning.empty:
        yield "finetuning_loss", figures.curves(results.finetuning, colours, label="loss on training images")
    if results.teacher_history:
        yield "teacher_losses", figures.losses(results.teacher_history)
    if results.refine_history:
        yield "part_losses", figures.losses(results.refine_history)
    if not measures.empty:
        drawn = {name: label for name, label in DRAWN_MEASURES.items() if name in list(measures)[:2]}
        yield "part_quality", figures.part_quality(measures, drawn, lead="learned")


def sheets(material: Material) -> dict[str, bytes]:
    """The charts (light) and the pictures as PNG files by name, for use outside of the page."""
    colours, masks = part_colours(material.parts.count), material.masks
    files = {name: png(chart.light) for name, chart in material.charts.items()}
    for name, rows in material.pictures.items():
        legend = colours if name in ("parts", "single_parts", "part_maps") else None
        files[name] = sheet(rows, legend=legend, legend_of=LEARNED)
    files |= {f"image_{place}": picture for place, picture in enumerate(material.portraits)}
    files |= {f"masks_{arm}": sheet(rows, heads=masks.heads[arm]) for arm, rows in masks.strips.items()}
    for arm, rows in material.snapshots.items():
        files[f"snapshots_{arm}"] = sheet(rows, heads=SNAPSHOT_HEADS)
    return files
