"""Folders of image files: `train|val|validation|test/<class>/*`, `<class>/*`, and both below `images/` beside `masks/`.

Without class folders (`images/train/*`, or a folder of loose files) every image is of the one class `all`. Folders
below a class folder belong to the class. The mask of an image is the PNG at the same place below `masks/`.
"""

import os
from dataclasses import dataclass
from itertools import takewhile

from images.decoding import HEAD_BYTES, Refused, may_be_image
from images.sources.items import Encoded, Item, Rejection, id_of
from images.sources.tree import Entry, Root, shown

SPLIT_FOLDERS = {b"train": "train", b"val": "val", b"validation": "val", b"test": "test"}
ONE_CLASS = "all"
# A value of a Parquet column of type `binary` holds less.
_MOST_BYTES = 2**31 - 1


@dataclass(frozen=True)
class Layout:
    """Where images and masks begin (raw parts of the path), and whether split and class folders follow."""

    images: tuple[bytes, ...]
    masks: tuple[bytes, ...]
    has_splits: bool
    has_classes: bool

    def place(self, entry: Entry) -> tuple[str, str, str]:
        """(split, class name, fault of the place) of an entry, each empty where there is none."""
        parts = entry.path.split(b"/")
        if any(part.startswith(b".") for part in parts[:-1]):
            return "", "", "hidden folder"
        if tuple(parts[: len(self.images)]) != self.images:
            return "", "", "outside of the layout"
        # An empty or unreadable folder is reported in the place of the files that it should hold.
        rest = parts[len(self.images) :] + ([b""] if entry.problem.endswith("folder") else [])
        split = ""
        if self.has_splits:
            if len(rest) < 2 or rest[0] not in SPLIT_FOLDERS:
                return "", "", "outside of the layout"
            split, rest = SPLIT_FOLDERS[rest[0]], rest[1:]
        if not self.has_classes:
            return split, ONE_CLASS, ""
        if len(rest) < 2:
            return split, "", "outside of the layout"
        return split, shown(rest[0]), ""


def layout_of(root: Root) -> Layout:
    """The layout of a tree of image files; ValueError where it has val or test folders alone."""
    top = root.subfolders()
    has_images = b"images" in top and (b"masks" in top or top == {b"images"})
    images = (b"images",) if has_images else ()
    masks = (b"masks",) if has_images and b"masks" in top else ()
    base = b"/".join(images)
    names = root.subfolders(base)
    splits = names & SPLIT_FOLDERS.keys()
    if splits and b"train" not in splits and splits == names:
        folders = ", ".join(sorted(map(shown, splits)))
        raise ValueError(f"{root.name}: folders {folders} and no folder train; add it, or use <class>/* alone")
    # A class may be called train, as the vehicle is: then other classes stand beside it, and it holds no folders.
    beside = names - SPLIT_FOLDERS.keys()
    has_splits = b"train" in splits and (
        len(splits) > 1 or not beside or bool(root.subfolders(b"/".join((*images, b"train"))))
    )
    groups = [b"/".join((*images, name)) for name in splits] if has_splits else [base]
    return Layout(images, masks, has_splits, any(root.subfolders(group) for group in groups))


class FolderSource:
    """A folder of image files, listed by `entries`. A class is a folder with at least one file that may be an image."""

    read_in_order = False

    def __init__(self, root: Root, entries: list[Entry]) -> None:
        self._root = root
        self.layout = layout_of(root)
        self.items: list[Item] = []
        self.rejected: list[Rejection] = []
        masks: dict[bytes, bytes] = {}
        for entry in filter(self._is_mask, entries):
            if masks.setdefault(self._stem(entry.path), entry.path) != entry.path:
                self._reject(entry.path, "", "", "mask without an image", "another mask has this name")
        self.has_masks = bool(masks)
        unused = set(masks)
        by_class: dict[str, list[Item]] = {}
        for entry in entries:
            if self._is_mask(entry):
                continue
            split, class_name, misplaced = self.layout.place(entry)
            if entry.problem:
                self._reject(entry.path, split, class_name, entry.problem, entry.detail)
            elif misplaced:
                reason, detail = self._refusal(entry.path) or (misplaced, "not in a class of a split")
                self._reject(entry.path, split, class_name, reason, detail)
            else:
                stem = self._stem(entry.path)
                unused.discard(stem)
                item = Item(entry.path, id_of(entry.path), split, -1, masks.get(stem))
                by_class.setdefault(class_name, []).append(item)
        for stem in unused:
            self._reject(masks[stem], "", "", "mask without an image", "no image has this name")
        self._label(by_class)

    def read(self, item: Item) -> Encoded:
        """The bytes of an image and its mask; raises `Refused`."""
        image, mask = self._bytes(item.path), item.place
        if mask is None:
            return Encoded(image)
        try:
            return Encoded(image, self._bytes(mask), shown(mask))
        except Refused as refused:
            raise Refused("damaged mask", str(refused)) from refused

    def _label(self, by_class: dict[str, list[Item]]) -> None:
        """Number the classes by name; a folder of other things is none, and each of its files is rejected."""
        self.classes: list[str] = []
        for name, items in sorted(by_class.items()):
            # Opens files up to the first that may be an image.
            refusals = list(takewhile(bool, (self._refusal(item.path) for item in items)))
            if len(refusals) == len(items):
                for item, refusal in zip(items, refusals, strict=True):
                    assert refusal is not None
                    self._reject(item.path, item.split, name, *refusal)
                continue
            for item in items:
                item.label = len(self.classes)
            self.classes.append(name)
            self.items.extend(items)

    def _reject(self, path: bytes, split: str, class_name: str, reason: str, detail: str) -> None:
        self.rejected.append(Rejection(shown(path), split, class_name, reason, detail))

    def _is_mask(self, entry: Entry) -> bool:
        below = bool(self.layout.masks) and entry.path.startswith(b"masks/")
        return below and entry.path.lower().endswith(b".png") and not entry.problem.endswith("folder")

    def _stem(self, path: bytes) -> bytes:
        """What an image and its mask have in common: the path below images/ or masks/, without its suffix."""
        below = path.split(b"/", 1)[1] if self.layout.images else path
        return os.path.splitext(below)[0]

    def _refusal(self, path: bytes) -> tuple[str, str] | None:
        """Reason and detail where the first bytes of a file rule out an image."""
        try:
            self._bytes(path, most=HEAD_BYTES)
        except Refused as refused:
            return refused.reason, refused.detail
        return None

    def _bytes(self, path: bytes, most: int = -1) -> bytes:
        try:
            with self._root.open(path) as file:
                size = file.seek(0, os.SEEK_END)
                if not size:
                    raise Refused("empty", "0 bytes")
                file.seek(0)
                if not may_be_image(file.read(HEAD_BYTES)):
                    raise Refused("not an image", f"{size} bytes of no known format")
                if size > _MOST_BYTES:
                    raise Refused("too large", f"{size} bytes, a Parquet value holds {_MOST_BYTES}")
                file.seek(0)
                return file.read(most)
        except OSError as error:
            raise Refused("unreadable", error.strerror or str(error)) from error
