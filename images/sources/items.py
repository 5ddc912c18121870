"""Candidates for images as every source lists them, and the split of each.

Where a source names no split, a seeded hash of the image's id decides, and no other image does. What else there is counts only
for a class that would have no training or no test image, and for a split that would stay empty.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from images.decoding import Refused

# Of an image without a class label, as Hugging Face writes it.
NO_LABEL = -1


@dataclass(slots=True)
class Item:
    """One candidate image. `split` is train, val, test, or empty where the source names none.

    path: raw and relative. label: place in `Source.classes`, or `NO_LABEL`. place: for the source, to read it again.
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
    """Encoded bytes of an image; bytes and path of its mask where it has one, or why the mask cannot be had."""

    image: bytes
    mask: bytes | Refused | None = None
    mask_path: str | None = None


class Source(Protocol):
    """A set of images, listed without being read.

    classes: names by label, none for images without labels. items: every candidate. rejected: every entry that is none.
    notes: lines on what was understood. read_in_order: reading is much faster in the order of `items` and by one thread.
    """

    classes: list[str]
    items: list[Item]
    rejected: list[Rejection]
    notes: list[str]
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
    test, then `val_share` of what is left val. Where chance leaves a class without training or test images, `_serve` moves
    one of its own. Raises ValueError where the source has other splits but no train, and where a split would stay empty for
    want of images.
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
    by_class: dict[int, list[Item]] = {}
    for item in free:
        if item.label != NO_LABEL:
            by_class.setdefault(item.label, []).append(item)
    for of_class in by_class.values():
        _serve(of_class, seed, has_test="test" in known)
    for split in [split for split, _ in missing] + ["train"]:
        _fill(free, split, seed)


def _serve(of_class: list[Item], seed: int, *, has_test: bool) -> None:
    """Give a class that chance left without training images one, and a class of two or more without test images one.

    To train goes the image with the highest draw, to test the one with the lowest, of val where the class has any there and
    never the last of train. An image that is added later moves one image at most, of its own class: the one moved here.
    None at all is impossible: each image alone in its class is for training, so a rule under which none ever moves tests none.
    """

    def rank(item: Item) -> tuple[float, bytes]:
        return draw(item.id, seed=seed, purpose="test"), item.path

    splits = {item.split for item in of_class}
    if "train" not in splits:
        max(of_class, key=rank).split = "train"
    if has_test or "test" in splits or len(of_class) < 2:
        return
    train = sorted((item for item in of_class if item.split == "train"), key=rank)
    val = [item for item in of_class if item.split == "val"]
    min(val or train[:-1], key=rank).split = "test"


def _fill(free: list[Item], split: str, seed: int) -> None:
    """Give an empty split the lowest draw of the largest one: a handful of images may all fall to the others.

    Of images whose class has more of them in their split, as long as there are any.
    """
    counts = Counter(item.split for item in free)
    if counts[split]:
        return
    of_class = Counter((item.split, item.label) for item in free)
    spare = [item for item in free if of_class[item.split, item.label] > 1]
    spare = spare or [item for item in free if counts[item.split] > 1]
    if not spare:
        raise ValueError(f"{len(free)} images are too few for train, val and test; add images")
    largest, _ = max(Counter(item.split for item in spare).items(), key=lambda found: (found[1], found[0]))
    donors = [item for item in spare if item.split == largest]
    min(donors, key=lambda item: (draw(item.id, seed=seed, purpose=split), item.path)).split = split
