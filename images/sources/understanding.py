"""What a folder or store of images is taken for, in a few lines: from its listing, and from a sample of its masks."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from config.groups import DataParams
from images.sources.class_coverage import check_coverage, count, coverage_lines, some, why_unusable
from images.sources.items import NO_LABEL, Item, Source, assign_splits
from images.sources.masks import describe_masks
from images.sources.preparation import by_reason, open_source, use_labels
from images.sources.tree import LITTER
from shards.row_index import SPLITS

WITHOUT_LABELS = (
    "no labels: parts, masks, encoders and reconstructions, no accuracy; to judge the encoders put a labelled set into "
    "data/transfer/NAME and name it in transfer.sets"
)


class Understanding(NamedTuple):
    """Lines for the user, and what follows for params.yaml.

    has_labels: there are class labels, and a class has both training and test images. has_masks: as the source has it.
    """

    lines: list[str]
    has_labels: bool
    has_masks: bool


def understand(data: DataParams, *, labels: bool | None, masks: bool = True) -> Understanding:
    """What `data.path` is taken for, with drawn splits where it has none.

    labels: whether its class labels are used; None uses them where they can judge encoders. masks: whether to look at some.
    Raises ValueError where there is no image, the splits cannot be drawn, or labels are to be used that can judge nothing.
    """
    source = open_source(data.path, image_column=data.image_column, label_column=data.label_column)
    classes, given = list(source.classes), [item.split for item in source.items]
    used = bool(classes) if labels is None else labels
    use_labels(source, data.path, used)
    _split(source, data)
    unusable = why_unusable(count(source), source.classes) if labels is None else ""
    if unusable:
        # As prepare_data will: without labels no class moves an image.
        used = False
        use_labels(source, data.path, used)
        for item, split in zip(source.items, given, strict=True):
            item.split = split
        _split(source, data)
    counts = count(source)
    check_coverage(data.path, counts, source.classes)
    lines = [*source.notes, *_table(source.items, {*given})]
    if used:
        lines += [_sizes(source), *coverage_lines(counts, classes)]
    elif unusable:
        lines += [f"its labels are not used: {unusable}", WITHOUT_LABELS]
    elif classes:
        lines += [f"its labels are not used: data.labels is []; `semmae use {data.path}` uses them", WITHOUT_LABELS]
    else:
        lines.append(WITHOUT_LABELS)
    if masks:
        lines += describe_masks(source, mask_values=data.mask_values, max_pixels=data.max_pixels)
    lines += _refused(source)
    classes_found = f"{len(classes):,} class{'es' * (len(classes) != 1)}" if classes else "no class labels"
    head = f"{data.path}: {len(source.items):,} images, {classes_found}"
    return Understanding([head, *(f"  {line}" for line in lines)], used, source.has_masks)


def _split(source: Source, data: DataParams) -> None:
    assign_splits(source.items, seed=data.split_seed, val_share=data.val_share, test_share=data.test_share)


def _table(items: list[Item], given: set[str]) -> Iterator[str]:
    """A row a split: images, share, and whether the source has it or it is drawn."""
    counts = Counter(item.split for item in items)
    yield "split      images   share"
    for split in SPLITS:
        origin = "given" if split in given else "drawn"
        yield f"{split:5} {counts[split]:>11,} {counts[split] / len(items):>7.1%}  {origin}"


def _sizes(source: Source) -> str:
    """How many images the classes have, and what becomes of images of none."""
    sizes = Counter(source.classes[item.label] for item in source.items if item.label != NO_LABEL)
    (largest, most), (smallest, least) = sizes.most_common(1)[0], min(sizes.items(), key=lambda size: size[1])
    if least == most:
        line = f"classes: {some(source.classes)}; {most:,} image{'s' * (most > 1)} each"
    else:
        line = f"classes: from {least:,} image{'s' * (least > 1)} ({some([smallest])}) to {most:,} ({some([largest])})"
    return line + "; images without a label train, and count in no accuracy" * (sizes.total() < len(source.items))


def _refused(source: Source) -> Iterator[str]:
    """What the listing alone refuses, by reason; litter apart."""
    litter = [row for row in source.rejected if row.reason == LITTER]
    others = [row for row in source.rejected if row.reason != LITTER]
    if others:
        yield f"refused: {by_reason(others)} ({some([row.path for row in others])})"
    if litter:
        yield f"litter, never counted: {len(litter):,} ({some([row.path for row in litter])})"
