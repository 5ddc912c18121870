"""From a source to image shards: every candidate is decoded once, kept or rejected with a reason, in a fixed order.

Memory: id, path and hash of every image, and the encoded bytes of the few that are being decoded.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from images.decoding import Refused, inspect
from images.sources.class_coverage import WITHOUT
from images.sources.container_source import ContainerSource
from images.sources.folder import FolderSource
from images.sources.items import NO_LABEL, Encoded, Item, Rejection, Source
from images.sources.kinds import kind_of, packed_among
from images.sources.masks import is_of_mask, mask_pixels
from images.sources.tree import LITTER, is_litter, root_of, shown
from images.stream import map_ahead
from shards.files import whole_file
from shards.image_shard_writer import ImageShardWriter
from shards.mask_shards import MaskShardWriter
from shards.row_index import SPLITS

# Where the same bytes lie in several splits, the first of these keeps them.
PRECEDENCE = ("test", "val", "train")
# Entries of these kinds were never images of the class in whose folder they lie.
_NEVER_IMAGES = ("not an image", "not a file", "empty folder", "link loop")


class Examined(NamedTuple):
    """An accepted image: its bytes, their SHA-256, and the pixels of each value of its mask (256,), or why that is refused."""

    encoded: Encoded
    sha256: bytes
    mask: np.ndarray | Refused | None


@dataclass
class Outcome:
    """What became of every entry of a source. order: ids of the kept images as they lie in the shards."""

    classes: list[str]
    rejected: list[Rejection] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    kept: Counter[tuple[str, str]] = field(default_factory=Counter)
    masks: int = 0
    bytes: int = 0

    @property
    def images(self) -> int:
        """Number of images kept."""
        return len(self.order)

    def ids(self, items: Iterable[Item]) -> dict[str, list[int]]:
        """Ids of the kept images by split."""
        splits = {item.id: item.split for item in items}
        held: dict[str, list[int]] = {split: [] for split in SPLITS}
        for image_id in self.order:
            held[splits[image_id]].append(image_id)
        return held

    @property
    def rejected_files(self) -> list[Rejection]:
        """What is not used and should be: all but masks and litter."""
        return [row for row in self.rejected if row.reason != LITTER and not is_of_mask(row.reason)]

    def metrics(self) -> dict[str, float]:
        """Counts in all, by split and by reason."""
        by_split: Counter[str] = Counter()
        reasons = Counter(row.reason for row in self.rejected)
        for (split, _), count in self.kept.items():
            by_split[split] += count
        in_train = {name for split, name in self.kept if split == "train" and name}
        return {
            "seen": self.images + len(self.rejected),
            "images": self.images,
            **{f"{split}_images": by_split[split] for split in SPLITS},
            "unlabelled_images": sum(count for (_, name), count in self.kept.items() if not name),
            "classes": len(self.classes),
            "classes_without_train_images": len(set(self.classes) - in_train),
            "masks": self.masks,
            "mebibytes": self.bytes / 2**20,
            "rejected": len(self.rejected),
            "rejected_share": len(self.rejected_files) / (self.images + len(self.rejected_files)),
            **{f"rejected/{reason.replace(' ', '_')}": count for reason, count in sorted(reasons.items())},
        }


def open_source(place: str | Path, *, image_column: str, label_column: str) -> Source:
    """List a folder or a URL as image files, or as files of many images: see `images.sources.kinds`.

    Raises ValueError where there is no such place or nothing that can be an image, and for two paths of one id.
    """
    root = root_of(place)
    every = sorted(root.walk(), key=lambda entry: entry.path)
    entries = [entry for entry in every if not is_litter(entry.path)]
    kind, notes = kind_of(root, entries, image_column=image_column)
    if kind is None:
        source: Source = FolderSource(root, entries)
    else:
        source = ContainerSource(root, entries, kind, image_column=image_column, label_column=label_column)
    if not source.items:
        packed = packed_among(entries)
        advice = f"unpack {packed}" if packed else "put the images there"
        raise ValueError(f"data.path: no image below {place}, {_content(source.rejected)}; {advice}")
    unlabelled = sum(item.label == NO_LABEL for item in source.items)
    if source.classes and unlabelled:
        notes.append(f"{unlabelled} of {len(source.items)} images have no label")
    source.notes += notes
    litter = (shown(entry.path) for entry in every if is_litter(entry.path))
    source.rejected += [Rejection(path, "", "", LITTER, "hidden, or left by a file manager") for path in litter]
    source.rejected.sort()
    _check_ids(source)
    return source


def use_labels(source: Source, place: str, wanted: bool) -> None:
    """Hold a source against `data.labels`: forget labels that are not wanted; ValueError where wanted ones are missing."""
    if not wanted:
        source.classes = []
        for item in source.items:
            item.label = NO_LABEL
    elif not source.classes:
        raise ValueError(f"{place}: no image has a class label; {WITHOUT}")


def fill_shards(
    images: ImageShardWriter,
    masks: MaskShardWriter,
    source: Source,
    *,
    previous: Iterable[int],
    max_pixels: int,
    workers: int,
    advance: Callable[[int], None] = lambda images: None,
) -> Outcome:
    """Examine every item of a source, whose splits are assigned, and add those that are kept to `images`, masks to `masks`.

    A refused mask is listed, and its image kept without one.

    previous: ids in the order of the last preparation; they come first, new ones behind them by path, so that full
    shards stay as they are. Of equal bytes the first is kept: in test rather than val, in val rather than train.
    advance: called with 1 after each item.
    """
    outcome = Outcome(source.classes, list(source.rejected))
    rank = {image_id: place for place, image_id in enumerate(previous)}
    items = sorted(source.items, key=lambda item: (rank.get(item.id, len(rank)), item.path))
    first: dict[bytes, Item] = {}
    for split in PRECEDENCE:
        mine = [item for item in items if item.split == split]
        for item, result in _examine(source, mine, max_pixels=max_pixels, workers=workers):
            if not isinstance(result, Refused):
                other = first.setdefault(result.sha256, item)
                if other is not item:
                    result = _duplicate(other, item, outcome)
            if isinstance(result, Refused):
                row = (shown(item.path), split, _class(outcome, item), result.reason, result.detail)
                outcome.rejected.append(Rejection(*row))
            else:
                _keep(images, masks, item, result, outcome)
            advance(1)
    outcome.rejected.sort()
    return outcome


def check_outcome(outcome: Outcome, *, max_rejected_share: float, listing: str | Path) -> None:
    """Raise ValueError where too much was rejected, a class has lost all its images, or a split is empty.

    Litter counts nowhere, and masks count apart: see `images.sources.masks.check_masks`.
    """
    files = outcome.rejected_files
    if len(files) / (len(files) + outcome.images) > max_rejected_share:
        raise ValueError(
            f"{len(files)} of {len(files) + outcome.images} files are refused ({by_reason(files)}), more than the share "
            f"{max_rejected_share} that data.max_rejected_share allows; {listing} lists them"
        )
    lost = {row.class_name for row in files if row.class_name and row.reason not in _NEVER_IMAGES}
    # Where no labels are used, a folder is no class.
    if outcome.classes and (emptied := sorted(lost - {name for _, name in outcome.kept})):
        counts = by_reason(row for row in files if row.class_name == emptied[0])
        raise ValueError(
            f"class {emptied[0]}: no image is left ({counts}); add images to it or remove it; {listing} lists them"
        )
    for split in SPLITS:
        if not any(kept_split == split for kept_split, _ in outcome.kept):
            counts = by_reason(files) or "none was there"
            raise ValueError(f"no image is left in {split} ({counts}); {listing} lists the refused")


def by_reason(rows: Iterable[Rejection]) -> str:
    """Number of rejections for each reason, the most frequent first."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(row.reason for row in rows).most_common())


def write_rejected(path: str | Path, rejected: list[Rejection]) -> None:
    """Write rejected.parquet: path, split, class, reason, detail, sorted by path."""
    names = ("path", "split", "class", "reason", "detail")
    columns = {name: pa.array([row[i] for row in rejected], pa.string()) for i, name in enumerate(names)}
    with whole_file(path) as file:
        pq.write_table(pa.table(columns), file)


def _examine(
    source: Source, items: list[Item], *, max_pixels: int, workers: int
) -> Iterator[tuple[Item, Examined | Refused]]:
    """Each item and its outcome, in order; at most a few a worker are held at once."""

    def outcome_of(candidate: tuple[Item, Encoded | Refused | None]) -> tuple[Item, Examined | Refused]:
        item, encoded = candidate
        try:
            encoded = source.read(item) if encoded is None else encoded
            return item, encoded if isinstance(encoded, Refused) else _examined(encoded, max_pixels)
        except Refused as refused:
            # Without its traceback, which would hold the bytes.
            return item, Refused(refused.reason, refused.detail)

    candidates = ((item, _read(source, item) if source.read_in_order else None) for item in items)
    return map_ahead(outcome_of, candidates, workers=workers, prefetch=4 * workers)


def _read(source: Source, item: Item) -> Encoded | Refused:
    try:
        return source.read(item)
    except Refused as refused:
        return refused


def _examined(encoded: Encoded, max_pixels: int) -> Examined:
    geometry = inspect(encoded.image, max_pixels=max_pixels)
    mask = mask_pixels(encoded, geometry, max_pixels=max_pixels)
    return Examined(encoded, hashlib.sha256(encoded.image).digest(), mask)


def _duplicate(other: Item, item: Item, outcome: Outcome) -> Refused:
    reason, where = "duplicate", f"same bytes as {shown(other.path)}"
    if other.split != item.split:
        reason, where = "duplicate across splits", f"{where} in {other.split}"
    if other.label != item.label:
        name = _class(outcome, other)
        where += f", there of class {name}" if name else ", there without a label"
    return Refused(reason, where)


def _keep(images: ImageShardWriter, masks: MaskShardWriter, item: Item, result: Examined, outcome: Outcome) -> None:
    (image, mask, mask_path), path = result.encoded, shown(item.path)
    images.add(item.split, image_id=item.id, label=item.label, sha256=result.sha256, image=image, path=path)
    outcome.order.append(item.id)
    outcome.kept[item.split, _class(outcome, item)] += 1
    outcome.bytes += len(image)
    if isinstance(result.mask, Refused):
        row = Rejection(mask_path or path, item.split, "", result.mask.reason, result.mask.detail)
        outcome.rejected.append(row)
    elif isinstance(mask, bytes) and result.mask is not None:
        masks.add(item.split, image_id=item.id, mask=mask, path=mask_path, pixels=result.mask)
        outcome.masks += 1


def _class(outcome: Outcome, item: Item) -> str:
    """Name of an item's class, empty where it has none."""
    return "" if item.label == NO_LABEL else outcome.classes[item.label]


def _content(rejected: list[Rejection]) -> str:
    """What a place without images holds instead."""
    files = [row for row in rejected if row.reason not in (LITTER, "empty folder")]
    if not files:
        return "which is empty"
    reason, count = Counter(row.reason for row in files).most_common(1)[0]
    example = next(row for row in files if row.reason == reason)
    return f"where {count} of {len(files)} entries are refused as {reason} ({example.path}: {example.detail})"


def _check_ids(source: Source) -> None:
    by_id: dict[int, bytes] = {}
    for item in source.items:
        other = by_id.setdefault(item.id, item.path)
        if other is not item.path:
            raise ValueError(f"{shown(other)} and {shown(item.path)} have the same id {item.id}; rename one of them")
