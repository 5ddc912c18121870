"""How much each learned part is used, and how well the parts agree with true ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.map_tiles import colour_of, name_of

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
DRAWN_MEASURES = {
    "nmi_foreground": "NMI over the set", "nmi_foreground_per_image": "NMI per image", "foreground_iou": "foreground IoU",
}  # fmt: skip
# The first that was measured leads: masks of whole objects have no parts to agree with.
LEADING_MEASURES = {
    "nmi_foreground": "NMI with the true parts in the foreground",
    "foreground_iou": "IoU of all parts together with the true objects",
}


class Usage(NamedTuple):
    """A part or the background: its name, CSS colour, and the shares of patches and of images that have it."""

    name: str
    colour: str
    patches: float
    images: float


@dataclass(frozen=True)
class Parts:
    """The learned parts. measures: a row a method and a column a measure, as `part_measures` has them."""

    count: int
    usage: Sequence[Usage]
    measures: pd.DataFrame

    @property
    def lead(self) -> str:
        """The measure that leads, empty without part labels."""
        return str(next(iter(self.measures), ""))


def part_measures(metrics: Mapping[str, float]) -> pd.DataFrame:
    """`<method>/<measure>` -> number as a row a method and a column a measure, best and leading first; empty without any."""
    measures = {tuple(name.split("/")): value for name, value in metrics.items() if "/" in name}
    if not measures:
        return pd.DataFrame()
    table = pd.Series(measures, dtype=float).unstack()
    lead = next(name for name in LEADING_MEASURES if name in table)
    names = sorted((name for name in PART_MEASURES if name in table), key=lambda name: name != lead)
    return table[names].sort_values(lead, ascending=False, kind="stable")


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
