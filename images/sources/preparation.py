"""From a source to image shards: every candidate is decoded once, kept or rejected with a reason, in a fixed order.

Memory: id, path and hash of every image, and the encoded bytes of the few that are being decoded.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from images.decoding import Refused, inspect, inspect_mask
from images.sources.folder import FolderSource
from images.sources.items import Encoded, Item, Rejection, Source
from images.sources.parquet import ParquetSource, is_shard
from images.sources.tree import Entry, Root, root_of, shown
from images.stream import map_ahead
from shards.files import whole_file
from shards.image_shard_writer import ImageShardWriter
from shards.row_index import SPLITS

# Where the same bytes lie in several splits, the first of these keeps them.
PRECEDENCE = ("test", "val", "train")
# Entries of these kinds were never images of the class in whose folder they lie.
_NEVER_IMAGES = ("not an image", "not a file", "empty folder", "link loop", "hidden folder", "outside of the layout")


# Of image files, as far as names tell: a folder of Parquet files without one can only be shards.
SUFFIXES = (
    b".jpg", b".jpeg", b".jpe", b".png", b".gif", b".bmp", b".tif", b".tiff", b".webp", b".ppm", b".pgm", b".pbm",
    b".jp2", b".avif",
)  # fmt: skip


class Examined(NamedTuple):
    """An accepted image: its bytes, their SHA-256, and the largest label of its mask (-1: none)."""

    encoded: Encoded
    sha256: bytes
    max_part_label: int


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

    @property
    def seen(self) -> int:
        """Number of entries kept or rejected."""
        return self.images + len(self.rejected)

    def metrics(self) -> dict[str, float]:
        """Counts in all, by split and by reason."""
        by_split: Counter[str] = Counter()
        reasons = Counter(row.reason for row in self.rejected)
        for (split, _), count in self.kept.items():
            by_split[split] += count
        in_train = {name for split, name in self.kept if split == "train"}
        return {
            "seen": self.seen,
            "images": self.images,
            **{f"{split}_images": by_split[split] for split in SPLITS},
            "classes": len(self.classes),
            "classes_without_train_images": len(set(self.classes) - in_train),
            "masks": self.masks,
            "mebibytes": self.bytes / 2**20,
            "rejected": len(self.rejected),
            "rejected_share": len(self.rejected) / self.seen,
            **{f"rejected/{reason.replace(' ', '_')}": count for reason, count in sorted(reasons.items())},
        }


def open_source(place: str | Path, *, image_column: str, label_column: str) -> Source:
    """List a folder or a URL as image files, or as Parquet shards where a Parquet file has the column `image_column`.

    Raises ValueError where there is no such place or nothing that can be an image, and for two paths of one id.
    """
    root = root_of(place)
    entries = sorted(root.walk(), key=lambda entry: entry.path)
    shards = [entry for entry in entries if is_shard(entry)]
    has_files = any(entry.path.lower().endswith(SUFFIXES) for entry in entries)
    if shards and (not has_files or any(_has_column(root, shard, image_column) for shard in shards)):
        source: Source = ParquetSource(root, entries, image_column=image_column, label_column=label_column)
    else:
        source = FolderSource(root, entries)
    if not source.items:
        raise ValueError(f"data.path: no image among the {len(entries)} entries of {place}")
    _check_ids(source)
    return source


def fill_shards(
    writer: ImageShardWriter,
    source: Source,
    *,
    previous: Iterable[int],
    max_pixels: int,
    workers: int,
    advance: Callable[[int], None] = lambda images: None,
) -> Outcome:
    """Examine every item of a source, whose splits are assigned, and add those that are kept to `writer`.

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
                    result = _duplicate(other, item, source.classes)
            if isinstance(result, Refused):
                row = (shown(item.path), split, source.classes[item.label], result.reason, result.detail)
                outcome.rejected.append(Rejection(*row))
            else:
                _add(writer, item, result)
                _count(outcome, item, result.encoded)
            advance(1)
    outcome.rejected.sort()
    return outcome


def check_outcome(outcome: Outcome, *, max_rejected_share: float, listing: str | Path) -> None:
    """Raise ValueError where too much was rejected, a class has lost all its images, or a split is empty."""
    reasons = Counter(row.reason for row in outcome.rejected)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    share = len(outcome.rejected) / outcome.seen
    if share > max_rejected_share:
        raise ValueError(
            f"{len(outcome.rejected)} of {outcome.seen} files are refused ({counts}), more than the share "
            f"{max_rejected_share} that data.max_rejected_share allows; {listing} lists them"
        )
    lost = {row.class_name for row in outcome.rejected if row.class_name and row.reason not in _NEVER_IMAGES}
    emptied = sorted(lost - {name for _, name in outcome.kept})
    if emptied:
        of_class = Counter(row.reason for row in outcome.rejected if row.class_name == emptied[0])
        counts = ", ".join(f"{count} {reason}" for reason, count in of_class.most_common())
        raise ValueError(
            f"class {emptied[0]}: no image is left ({counts}); add images to it or remove it; {listing} lists them"
        )
    for split in SPLITS:
        if not any(kept_split == split for kept_split, _ in outcome.kept):
            raise ValueError(f"no image is left in {split} ({counts or 'none was there'}); {listing} lists the refused")


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
    largest = -1 if encoded.mask is None else inspect_mask(encoded.mask, geometry, max_pixels=max_pixels)
    return Examined(encoded, hashlib.sha256(encoded.image).digest(), largest)


def _duplicate(other: Item, item: Item, classes: list[str]) -> Refused:
    where = "" if other.split == item.split else f" in {other.split}"
    label = "" if other.label == item.label else f", there of class {classes[other.label]}"
    reason = "duplicate" if other.split == item.split else "duplicate across splits"
    return Refused(reason, f"same bytes as {shown(other.path)}{where}{label}")


def _add(writer: ImageShardWriter, item: Item, result: Examined) -> None:
    writer.add(
        item.split,
        image_id=item.id,
        label=item.label,
        sha256=result.sha256,
        image=result.encoded.image,
        path=shown(item.path),
        mask=result.encoded.mask,
        mask_path=result.encoded.mask_path,
        max_part_label=result.max_part_label,
    )


def _count(outcome: Outcome, item: Item, encoded: Encoded) -> None:
    outcome.order.append(item.id)
    outcome.kept[item.split, outcome.classes[item.label]] += 1
    outcome.masks += encoded.mask is not None
    outcome.bytes += len(encoded.image)


def _has_column(root: Root, entry: Entry, column: str) -> bool:
    try:
        with root.open(entry.path) as file:
            return column in pq.read_schema(file).names
    except (OSError, pa.ArrowException):
        return False  # Among image files it is one more thing that is not an image.


def _check_ids(source: Source) -> None:
    by_id: dict[int, bytes] = {}
    for item in source.items:
        other = by_id.setdefault(item.id, item.path)
        if other is not item.path:
            raise ValueError(f"{shown(other)} and {shown(item.path)} have the same id {item.id}; rename one of them")
