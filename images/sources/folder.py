"""Folders of image files, in any layout of `images.sources.layout`, with tables of labels or without."""

import os
from itertools import takewhile

from images.decoding import HEAD_BYTES, Refused, may_be_image, refusal_of
from images.sources.attributes import ATTRIBUTES
from images.sources.classes import in_order
from images.sources.folder_tree import FolderTree, has_image_suffix
from images.sources.items import NO_LABEL, Encoded, Item, Rejection, id_of
from images.sources.label_tables import TableLabels, is_table
from images.sources.layout import layout_of
from images.sources.mask_names import mask_ending
from images.sources.splits import split_of_table
from images.sources.tree import Entry, Root, shown

# A value of a Parquet column of type `binary` holds less.
_MOST_BYTES = 2**31 - 1


class FolderSource:
    """A folder of image files, listed by `entries`; ValueError where its folders, tables or masks contradict each other.

    A class is a folder with at least one file that may be an image, or a label in a table; one class alone is none.
    notes: lines on what was understood.
    """

    read_in_order = False

    def __init__(self, root: Root, entries: list[Entry]) -> None:
        self._root = root
        self._refusals: dict[bytes, tuple[str, str] | None] = {}
        self.items: list[Item] = []
        self.rejected: list[Rejection] = []
        self.classes: list[str] = []
        tree = FolderTree(entries, lambda path: self._refusal(path) is None)
        self.layout = layout_of(root.name, tree)
        self.notes = self.layout.lines()
        tables = [
            path
            for folder in sorted(self.layout.table_folders())
            for path in tree.others(folder)
            if is_table(path) and path != ATTRIBUTES
        ]
        masks, by_class = self._sorted_out(entries, set() if self.layout.has_classes else set(tables))
        by_class = self._with_an_image(by_class)
        self.items = [item for items in by_class.values() for item in items]
        if self.layout.twins:
            self._pair(masks)
        self.has_masks = any(item.place for item in self.items)
        if self.layout.has_classes:
            self._number(by_class)
            self.notes += [f"table {shown(path)} is not used: class folders give the labels" for path in tables]
        else:
            self._read_tables(tables)

    def read(self, item: Item) -> Encoded:
        """The bytes of an image and its mask; raises `Refused` for the image."""
        image, mask = self._bytes(item.path), item.place
        if mask is None:
            return Encoded(image)
        try:
            return Encoded(image, self._bytes(mask), shown(mask))
        except Refused as refused:
            return Encoded(image, Refused("damaged mask", str(refused)), shown(mask))

    def _sorted_out(self, entries: list[Entry], tables: set[bytes]) -> tuple[dict[bytes, bytes], dict[str, list[Item]]]:
        """Masks by the name of their image, and items by class folder; what is neither, nor a table, is rejected."""
        masks: dict[bytes, bytes] = {}
        by_class: dict[str, list[Item]] = {}
        for entry in entries:
            path = entry.path
            place = self.layout.place(path + b"/" if entry.problem.endswith("folder") else path)
            split, class_name = place or ("", "")
            stem = self._stem(path, of_mask=True)
            refusal = None if entry.problem or has_image_suffix(path) or b"." not in path else self._refusal(path)
            if entry.problem:
                self._reject(path, split, class_name, entry.problem, entry.detail)
            elif path in tables:
                continue
            elif path == ATTRIBUTES:
                self.notes.append(f"table {shown(path)}: attributes; data.attributes names the columns to use")
            elif refusal:
                self._reject(path, split, class_name, *refusal)
            elif stem is not None:
                if not path.lower().endswith(b".png"):
                    self._reject(path, "", "", "mask without an image", "a mask is a PNG file")
                elif masks.setdefault(stem, path) != path:
                    self._reject(path, "", "", "mask without an image", "another mask has this name")
            elif place is None:
                self._reject(
                    path, "", "", *(self._refusal(path) or ("outside of the layout", "not in a class of a split"))
                )
            else:
                by_class.setdefault(class_name, []).append(Item(path, id_of(path), split, NO_LABEL))
        return masks, by_class

    def _with_an_image(self, by_class: dict[str, list[Item]]) -> dict[str, list[Item]]:
        """Classes with an image, in order; a folder of other things is none, and each of its files is rejected."""
        kept = {}
        for name in in_order(by_class):
            items = by_class[name]
            # Opens files up to the first that may be an image.
            refusals = list(takewhile(bool, (self._refusal(item.path) for item in items)))
            if len(refusals) < len(items):
                kept[name] = items
                continue
            for item, refusal in zip(items, filter(None, refusals), strict=True):
                self._reject(item.path, item.split, name, *refusal)
        return kept

    def _pair(self, masks: dict[bytes, bytes]) -> None:
        """Give each image its mask; ValueError where no mask is called like an image."""
        stems = {stem: item for item in self.items if (stem := self._stem(item.path)) is not None}
        ending = mask_ending(masks, stems)
        if ending is None and stems:
            stem, item = min(stems.items())
            number, _, name = stem.partition(b"/")
            folder = shown(self.layout.twins[int(number)].masks)
            raise ValueError(
                f"data.path: none of the {len(masks)} PNG files in {self._root.name}/{folder}/ is called like an image; "
                f"the mask of {shown(item.path)} is {folder}/{shown(name)}.png"
            )
        if ending:
            self.notes.append(f"masks are called like their images with {shown(ending)} behind the name")
        unused = set(masks)
        for item in self.items:
            stem = (self._stem(item.path) or b"") + (ending or b"")
            item.place = masks.get(stem)
            unused.discard(stem)
        for stem in unused:
            self._reject(masks[stem], "", "", "mask without an image", "no image has this name")

    def _number(self, by_class: dict[str, list[Item]]) -> None:
        """Number the classes, whose items are given in order; one alone tells nothing apart and is none."""
        if len(by_class) < 2:
            self.notes += [f"no classes: {name} would be the only one" for name in by_class]
            return
        self.classes = list(by_class)
        for label, items in enumerate(by_class.values()):
            for item in items:
                item.label = label

    def _read_tables(self, tables: list[bytes]) -> None:
        """Labels and splits of the items from tables, where any fits; ValueError where a split folder gets no label."""
        base = self.layout.base + b"/" if self.layout.base else b""
        paths = [shown(item.path[len(base) :]) for item in self.items]
        labels = TableLabels(paths, [item.split for item in self.items])
        for path in tables:
            below = path.removeprefix(base) if path.startswith(base) else path.rpartition(b"/")[2]
            labels.read(self._root, path, split_of_table(below))
        self.notes += labels.lines
        for path in set(tables) - set(labels.used):
            self._reject(path, "", "", *(self._refusal(path) or ("not an image", "a table that is not used")))
        by_class: dict[str, list[Item]] = {name: [] for name in in_order(set(labels.names) - {""})}
        for item, name, split in zip(self.items, labels.names, labels.splits, strict=True):
            item.split = split
            if name:
                by_class[name].append(item)
        self._number(by_class)
        labelled = {item.split for item in self.items if item.label != NO_LABEL}
        unlabelled = {item.split for item in self.items} - labelled if self.classes else set()
        for group in self.layout.groups:
            if group.split and group.split in unlabelled:
                folder = f"{self._root.name}/{shown(group.folder)}/"
                raise ValueError(
                    f"data.path: no image of {folder} has a label, but {', '.join(map(shown, labels.used))} labels others; "
                    f"add a table for {folder} or move it elsewhere ({group.split} is then drawn from the rest)"
                )

    def _reject(self, path: bytes, split: str, class_name: str, reason: str, detail: str) -> None:
        self.rejected.append(Rejection(shown(path), split, class_name, reason, detail))

    def _stem(self, path: bytes, *, of_mask: bool = False) -> bytes | None:
        """What an image and its mask have in common: number of their twins and path below without suffix, else None."""
        for number, twins in enumerate(self.layout.twins):
            folder = (twins.masks if of_mask else twins.images) + b"/"
            if path.startswith(folder):
                return b"%d/" % number + os.path.splitext(path[len(folder) :])[0]
        return None

    def _refusal(self, path: bytes) -> tuple[str, str] | None:
        """Reason and detail where the first bytes of a file rule out an image."""
        if path not in self._refusals:
            try:
                self._bytes(path, most=HEAD_BYTES)
                self._refusals[path] = None
            except Refused as refused:
                self._refusals[path] = refused.reason, refused.detail
        return self._refusals[path]

    def _bytes(self, path: bytes, most: int = -1) -> bytes:
        try:
            with self._root.open(path) as file:
                size = file.seek(0, os.SEEK_END)
                if not size:
                    raise Refused("empty", "0 bytes")
                file.seek(0)
                head = file.read(HEAD_BYTES)
                if not may_be_image(head):
                    raise refusal_of(head, size)
                if size > _MOST_BYTES:
                    raise Refused("too large", f"{size} bytes, a Parquet value holds {_MOST_BYTES}")
                file.seek(0)
                return file.read(most)
        except OSError as error:
            raise Refused("unreadable", error.strerror or str(error)) from error
