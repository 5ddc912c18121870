"""What the values of a data set's masks mean: background, no label, or a label each; and when too many masks are refused.

Without a mapping a value is its own label: 0 is the background and 255 no label. Masks of 0 and 255 alone are masks of objects,
so there 255 is label 1. A mapping (`data.mask_values`) names other meanings.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np

from images.decoding import IGNORED_LABEL, Geometry, Refused, inspect, inspect_mask
from images.sources.items import Encoded, Item, Rejection, Source

BACKGROUND = 0
WORDS = {"background": BACKGROUND, "ignored": IGNORED_LABEL}
# Value in the mask files -> one of `WORDS`, or the label that it stands for.
Mapped = Mapping[int, str | int]
OBJECT: Mapped = {255: 1}
# Masks of the Oxford-IIIT Pet set and its like: 1 the object, 2 the background, 3 the border between them.
TRIMAP: Mapped = {2: "background", 3: "ignored"}
# Label ids are fewer; grey pictures and outlines with soft edges have more values.
MANY_VALUES = 100
MOST_SHARES = 6
EXAMINED = 200
WITHOUT_PARTS = ", or set data.part_truth to []"
_READERS = 16


def mask_pixels(encoded: Encoded, geometry: Geometry, *, max_pixels: int) -> np.ndarray | Refused | None:
    """Pixels of each value (256,) of the mask of an image, why it is refused, or None where it has none."""
    if not isinstance(encoded.mask, bytes):
        return encoded.mask
    try:
        return inspect_mask(encoded.mask, geometry, max_pixels=max_pixels)
    except Refused as refused:
        # Without its traceback, which would hold the bytes.
        return Refused(refused.reason, refused.detail)


def is_of_mask(reason: str) -> bool:
    """Whether a rejection is of a mask, whose image is kept all the same: `mask size`, `damaged mask`, ..."""
    return "mask" in reason.split()


def labels_of(values: Collection[int], mapping: Mapped) -> dict[int, int]:
    """Label of each of `values`, which are all that the masks of a data set hold."""
    meanings = mapping or (OBJECT if set(values) == {BACKGROUND, 255} else {})
    named = {value: meanings.get(value, value) for value in sorted(values)}
    return {value: WORDS[meant] if isinstance(meant, str) else meant for value, meant in named.items()}


def check_values(pixels: np.ndarray, labels: Mapping[int, int], *, parts: bool, key: str = "data.mask_values") -> None:
    """ValueError where masks of parts have no background, which would be measured as a part, or no part; or one class alone.

    pixels: (256,) pixels of each value. labels: value -> label. parts: see `describe_values`.
    """
    named = {*labels.values()} - {IGNORED_LABEL}
    if len(named) > 1 and (BACKGROUND in named or not parts):
        return
    if set(labels) == {1, 2, 3}:
        example = TRIMAP
    elif BACKGROUND in named:
        example = OBJECT
    else:
        example = {int(pixels.argmax()): "background"}
    lack = "a second class" if not parts else "a part" if BACKGROUND in named else "the background"
    raise ValueError(
        f"masks hold the values {_shares(pixels)}, and none of them is {lack}; say in params.yaml which is, for example "
        f"{key}: {_written(example)}" + WITHOUT_PARTS * parts
    )


def check_splits(pixels: Mapping[str, np.ndarray], labels: Mapping[int, int], *, parts: bool) -> None:
    """ValueError where a split has no labels for what is done with them: parts are measured on test, classes learned on train.

    pixels: split -> (256,) pixels of each value. The rest: see `check_values`.
    """
    without = (IGNORED_LABEL, BACKGROUND) if parts else (IGNORED_LABEL,)
    for split in ("test",) if parts else ("train", "test"):
        if all(labels[value] in without for value in np.flatnonzero(pixels[split]).tolist()):
            raise ValueError(
                f"no mask of {split} has a {'part' if parts else 'class'}; put a PNG of label ids for each image into masks/ "
                "beside images/ (masks/cat/1.png for images/cat/1.jpg)" + WITHOUT_PARTS * parts
            )


def check_masks(rejected: Iterable[Rejection], kept: int, *, max_rejected_share: float, listing: str | Path) -> None:
    """ValueError where more than `max_rejected_share` of the masks are refused; kept: the number of the others."""
    refused = [row for row in rejected if is_of_mask(row.reason)]
    if len(refused) <= max_rejected_share * (kept + len(refused)):
        return
    (reason, count), *_ = Counter(row.reason for row in refused).most_common()
    first = next(row for row in refused if row.reason == reason)
    raise ValueError(
        f"{len(refused)} of {kept + len(refused)} masks are refused, {count} of them as {reason!r}, for example {first.path} "
        f"({first.detail}); correct them, or raise data.max_rejected_share from {max_rejected_share}; {listing} lists them"
    )


def describe_values(pixels: np.ndarray, mapping: Mapped, *, parts: bool, key: str = "data.mask_values") -> list[str]:
    """Lines on the values that masks hold, what they mean, and what looks wrong.

    pixels: (256,) pixels of each value. parts: part labels, where 0 is the background; else classes of a segmentation.
    """
    labels = labels_of(np.flatnonzero(pixels).tolist(), mapping)
    if not labels:
        return []
    used = mapping or (OBJECT if labels.get(255) == OBJECT[255] else {})
    lines = [f"values {_shares(pixels)}: {_meaning(labels, parts)} ({key}: {_written(used)})"]
    unused = [value for value in mapping if value not in labels]
    if unused:
        lines.append(f"{key} names {_numbers(unused)}, which no mask holds")
    if len(labels) > MANY_VALUES:
        lines.append(
            f"{len(labels)} values are many for label ids: masks with soft edges and grey pictures have as many; save masks "
            "without antialiasing"
        )
    return lines


def describe_masks(source: Source, *, mask_values: Mapped, max_pixels: int) -> list[str]:
    """Lines on the masks of a source, from at most `EXAMINED` of its images; none where it has no masks."""
    if not source.has_masks:
        return []
    # Of files, an item without a mask has no place.
    items = [item for item in source.items if item.place is not None]
    # Ids are hashes, so the smallest are as good as drawn.
    some = (items if source.read_in_order else sorted(items, key=lambda item: item.id))[:EXAMINED]

    def examined(item: Item) -> np.ndarray | Refused | None:
        try:
            encoded = source.read(item)
            return mask_pixels(encoded, inspect(encoded.image, max_pixels=max_pixels), max_pixels=max_pixels)
        except Refused:
            return None  # Of the image, whose refusal is another line.

    with ThreadPoolExecutor(1 if source.read_in_order else _READERS) as pool:
        masks = [mask for mask in pool.map(examined, some) if mask is not None]
    refused = [mask for mask in masks if isinstance(mask, Refused)]
    pixels = sum((mask for mask in masks if not isinstance(mask, Refused)), np.zeros(256, dtype=np.int64))
    lines = describe_values(pixels, mask_values, parts=True)
    if refused:
        lines.append(f"{len(refused)} are refused, for example {refused[0]}")
    lines = [f"{len(masks)} masks read: {line}" for line in lines]
    try:
        if pixels.any():
            check_values(pixels, labels_of(np.flatnonzero(pixels).tolist(), mask_values), parts=True)
    except ValueError as error:
        lines.append(str(error))
    return lines


def _meaning(labels: Mapping[int, int], parts: bool) -> str:
    """What each value is, in words: `0 background, 255 the object`."""
    values_of = {label: [value for value in labels if labels[value] == label] for label in sorted({*labels.values()})}
    ignored = values_of.pop(IGNORED_LABEL, [])
    others = {label: values for label, values in values_of.items() if label != BACKGROUND}
    words = []
    if BACKGROUND in values_of and (parts or len(others) == 1):
        words.append(f"{_numbers(values_of.pop(BACKGROUND))} background")
    if len(others) == 1 and values_of == others:
        words.append(f"{_numbers(*others.values())} the object")
    else:
        own = [label for label, values in values_of.items() if values == [label]]
        words += [f"{_numbers(own)} a {'part' if parts else 'class'} each"] if own else []
        words += [f"{_numbers(values)} label {label}" for label, values in values_of.items() if label not in own]
    return ", ".join([*words, *([f"{_numbers(ignored)} ignored"] if ignored else [])])


def _shares(pixels: np.ndarray) -> str:
    """The values, each with its share of the pixels where they are few: `0 (81 %), 255 (19 %)`."""
    values = np.flatnonzero(pixels).tolist()
    if len(values) > MOST_SHARES:
        return _numbers(values)
    return ", ".join(f"{value} ({pixels[value] / pixels.sum():.0%})".replace("%", " %") for value in values)


def _numbers(values: Collection[int]) -> str:
    """Ascending numbers, neighbours together: `0-18, 255`."""
    runs = [[*run] for _, run in groupby(enumerate(sorted(values)), key=lambda place: place[1] - place[0])]
    return ", ".join(f"{run[0][1]}-{run[-1][1]}" if len(run) > 1 else str(run[0][1]) for run in runs)


def _written(mapping: Mapped) -> str:
    """A mapping as it stands in params.yaml."""
    return "{" + ", ".join(f"{value}: {meant}" for value, meant in mapping.items()) + "}"
