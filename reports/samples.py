"""The images that a report shows, the same in every figure."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from images.dataset import decoded_masks, labelled_rows
from images.decoding import decode_square
from reports.lettering import class_names
from shards.image_shards import ImageShards
from shards.mask_shards import MaskShards

TILE = 128


@dataclass(frozen=True)
class Samples:
    """A few test images. ids (n,) uint64; tiles n times (TILE, TILE, 3) uint8; encoded n files.

    classes: n names, empty for an image without a label. drawn: the same as pictures can draw them. truth: n part label
    maps (TILE, TILE) uint8 of the data, None for an image that has none.
    """

    ids: np.ndarray
    tiles: list[np.ndarray]
    classes: list[str]
    drawn: list[str]
    encoded: list[bytes]
    truth: list[np.ndarray | None]

    def first(self, count: int) -> "Samples":
        """The first `count` of them."""
        kept = {name: values[:count] for name, values in vars(self).items()}
        return Samples(**kept)


def choose(shards: ImageShards, masks: MaskShards, count: int) -> Samples:
    """At most `count` images, one of each class in turn, by ascending id and not by hand."""
    rows = np.array(spread_over_classes(shards.labels, count))
    encoded, labels = [shards.bytes(row) for row in rows], shards.labels[rows]
    # No label is -1, the last place.
    names, drawn = ([*texts, ""] for texts in (shards.classes, class_names(shards.classes)))
    has_mask = np.isin(rows, labelled_rows(shards, masks))
    maps = iter(decoded_masks(masks, shards, rows[has_mask], TILE))
    return Samples(
        ids=shards.ids[rows],
        tiles=[decode_square(data, TILE) for data in encoded],
        classes=[names[label] for label in labels],
        drawn=[drawn[label] for label in labels],
        encoded=encoded,
        truth=[next(maps) if known else None for known in has_mask],
    )


def spread_over_classes(labels: np.ndarray, count: int) -> list[int]:
    """Rows of `labels` (N,): the first of every class, then the second of every class, and so on, `count` at most."""
    ranks = pd.Series(labels).groupby(labels).cumcount()
    return np.lexsort((labels, ranks))[:count].tolist()
