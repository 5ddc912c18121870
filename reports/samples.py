"""The images that a report shows, the same in every figure."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from images.dataset import decoded_masks
from images.decoding import decode_square
from shards.image_shards import ImageShards

TILE = 128


@dataclass(frozen=True)
class Samples:
    """A few test images. ids (n,) uint64; tiles n times (TILE, TILE, 3) uint8; classes n names; encoded n files.

    truth: n part label maps (TILE, TILE) uint8 of the data, None for an image that has none.
    """

    ids: np.ndarray
    tiles: list[np.ndarray]
    classes: list[str]
    encoded: list[bytes]
    truth: list[np.ndarray | None]

    def first(self, count: int) -> "Samples":
        """The first `count` of them."""
        kept = {name: values[:count] for name, values in vars(self).items()}
        return Samples(**kept)


def choose(shards: ImageShards, count: int) -> Samples:
    """At most `count` images, one of each class in turn, by ascending id and not by hand."""
    rows = np.array(spread_over_classes(shards.labels, count))
    encoded = [shards.bytes(row) for row in rows]
    return Samples(
        ids=shards.ids[rows],
        tiles=[decode_square(data, TILE) for data in encoded],
        classes=[shards.classes[label] for label in shards.labels[rows]],
        encoded=encoded,
        truth=[_truth(shards, row) for row in rows],
    )


def _truth(shards: ImageShards, row: int) -> np.ndarray | None:
    return None if shards.mask_bytes(row) is None else decoded_masks(shards, np.array([row]), TILE)[0]


def spread_over_classes(labels: np.ndarray, count: int) -> list[int]:
    """Rows of `labels` (N,): the first of every class, then the second of every class, and so on, `count` at most."""
    ranks = pd.Series(labels).groupby(labels).cumcount()
    return np.lexsort((labels, ranks))[:count].tolist()
