"""What a source of images gives: items to read, and what it can tell at once is not usable."""

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


@dataclass(slots=True)
class Item:
    """One candidate image. `split` is train, val, test, or empty where the source does not say.

    path: raw and relative. place: what the source finds it by.
    """

    path: bytes
    id: int
    split: str
    label: int
    place: Any = None


class Rejection(NamedTuple):
    """One row of rejected.parquet; `split` and `class_name` are empty where the entry stands outside of them."""

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
