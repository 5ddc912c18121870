"""Candidates for images as every source lists them, and the split of each.

Where a source names no split, a seeded hash of the image's id decides, and no other image does: only a split that would stay
empty depends on what else there is.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


@dataclass(slots=True)
class Item:
    """One candidate image. `split` is train, val, test, or empty where the source names none.

    path: raw and relative. place: for the source, to read it again.
    """

    path: bytes
    id: int
    split: str
    label: int
    place: Any = None


class Rejection(NamedTuple):
    """One row of rejected.parquet; `split` and `class_name` are empty for an entry outside of both."""

    path: str
    split: str
    class_name: str
    reason: str
    detail: str


class Encoded(NamedTuple):
    """Encoded bytes of an image, and bytes and path of its mask where it has one."""

    image: bytes
    mask: bytes | None = None
    mask_path: str | None = None


class Source(Protocol):
    """A set of images, listed without being read.

    classes: names by label. items: every candidate. rejected: every entry that is none. read_in_order: reading is
    much faster in the order of `items` and by one thread.
    """

    classes: list[str]
    items: list[Item]
    rejected: list[Rejection]
    has_masks: bool
    read_in_order: bool

    def read(self, item: Item) -> Encoded:
        """The bytes of an item; raises `images.decoding.Refused` where they cannot be had."""
        ...


def id_of(path: bytes) -> int:
    """Image id: the first 8 bytes of the SHA-256 of the raw relative path, big-endian."""
    return int.from_bytes(hashlib.sha256(path).digest()[:8], "big")


def draw(image_id: int, *, seed: int, purpose: str) -> float:
    """A number in [0, 1) that id, seed and purpose alone determine."""
    digest = hashlib.sha256(f"{seed} {purpose} {image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign_splits(items: list[Item], *, seed: int, val_share: float, test_share: float) -> None:
    """Set `split` of every item to train, val or test.

    A split that the source has stays as it is; from the rest, `test_share` of its images become test where it has no
    test, then `val_share` of what is left val. Raises ValueError where the source has other splits but no train, and
    where a split would stay empty for want of images.
    """
    known = {item.split for item in items if item.split}
    if known and "train" not in known:
        raise ValueError(f"the source has {' and '.join(sorted(known))} images and none for train")
    shares = [("test", test_share), ("val", val_share)]
    missing = [(split, share) for split, share in shares if split not in known]
    free = [item for item in items if item.split in ("", "train")]
    for item in free:
        drawn = (s for s, share in missing if draw(item.id, seed=seed, purpose=s) < share)
        item.split = next(drawn, "train")
    for split in [split for split, _ in missing] + ["train"]:
        _fill(free, split, seed)


def _fill(free: list[Item], split: str, seed: int) -> None:
    """Give an empty split the lowest draw of the largest one: a handful of images may all fall to the others."""
    counts = Counter(item.split for item in free)
    if counts[split]:
        return
    largest, count = counts.most_common(1)[0]
    if count < 2:
        raise ValueError(f"{len(free)} images are too few for train, val and test; add images")
    donors = [item for item in free if item.split == largest]
    min(donors, key=lambda item: (draw(item.id, seed=seed, purpose=split), item.path)).split = split
