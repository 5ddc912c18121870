"""Files of many images as one source: Parquet and Arrow tables, WebDataset tars.

The split of a row is read from the names of its file and folders, as Hugging Face writes them (`train-00000-of-00002.parquet`,
`data/validation/0000.parquet`, `test/data-00000-of-00001.arrow`). The path of a row is its own where every row of the source has
one and all differ, otherwise file and row number; rows of our own shards keep their ids.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from images.sources.classes import class_named, in_order
from images.sources.columns import only_paths
from images.sources.containers import Container, Rows
from images.sources.items import NO_LABEL, Encoded, Item, Rejection, id_of
from images.sources.splits import split_of
from images.sources.tree import Entry, Root, shown

_LISTED_AT_ONCE = 16
# What a writer leaves beside its tables and nobody counts among the images.
_COMPANIONS = {
    b"dataset_info.json", b"dataset_dict.json", b"state.json", b"_SUCCESS", b"_metadata", b"_common_metadata",
}  # fmt: skip


class ContainerSource:
    """Rows of files of one kind. A file that cannot be read or lacks a column is a ValueError that names it.

    A row without a label is an item of the label -1. One class alone tells nothing apart and is none.
    """

    read_in_order = True

    def __init__(
        self, root: Root, entries: list[Entry], kind: type[Container], *, image_column: str, label_column: str
    ) -> None:
        files = [entry for entry in entries if is_container(entry, kind)]
        self._paths = [entry.path for entry in files]
        self._containers = [kind(root, entry, image_column, label_column) for entry in files]
        self._lock = threading.Lock()
        self._current: Container | None = None
        # Several at once, because a store answers slowly and to many.
        with ThreadPoolExecutor(_LISTED_AT_ONCE) as pool:
            listed = list(pool.map(lambda container: container.rows(), self._containers))
        count = sum(len(rows.labels) for rows in listed)
        if count and count == sum(rows.without_image for rows in listed):
            raise only_paths(root.name)
        self.rejected = [_rejection(entry, kind) for entry in entries if _is_other(entry, kind)]
        self.rejected += [row for rows in listed for row in rows.rejected]
        self.has_masks = any(rows.has_masks for rows in listed)
        self.classes, self.items = self._named(listed)
        self.notes = self._notes(kind, listed)

    def read(self, item: Item) -> Encoded:
        """The bytes of a row and its mask; raises `Refused`."""
        number, row = item.place
        with self._lock:
            container = self._containers[number]
            if self._current is not container:
                if self._current is not None:
                    self._current.close()
                self._current = container
            return container.read(row)

    def _named(self, listed: list[Rows]) -> tuple[list[str], list[Item]]:
        """Classes, and every row as an item."""
        orders = {rows.names for rows in listed if rows.names is not None}
        order = orders.pop() if len(orders) == 1 else None
        named = [[class_name(label, rows.names or order) for label in rows.labels] for rows in listed]
        used = {name for names in named for name in names if name}
        # Files may number the same classes differently.
        classes = list(order) if order and used <= set(order) else in_order(used)
        labels = {name: label for label, name in enumerate(classes)} if len(used) > 1 else {}
        items, paths = [], self._paths_of(listed)
        for number, (rows, names) in enumerate(zip(listed, named, strict=True)):
            split = _split_of(self._paths[number])
            for row, name in enumerate(names):
                path = next(paths)
                image_id = id_of(path) if rows.ids is None else int(rows.ids[row])
                items.append(Item(path, image_id, split, labels.get(name, NO_LABEL), (number, row)))
        return list(labels), items

    def _paths_of(self, listed: list[Rows]) -> Iterator[bytes]:
        """Path of every row, in order."""
        own = [path for rows in listed for path in rows.paths if path is not None]
        if len(set(own)) == sum(len(rows.paths) for rows in listed):
            return iter(own)
        numbered = zip(self._paths, listed, strict=True)
        return (path + b"/%08d" % row for path, rows in numbered for row in range(len(rows.paths)))

    def _notes(self, kind: type[Container], listed: list[Rows]) -> list[str]:
        splits = sorted({item.split for item in self.items if item.split})
        notes = [f"{kind.KIND} files: {len(self._paths)}; splits in their names: {', '.join(splits) or 'none'}"]
        notes += dict.fromkeys(note for rows in listed for note in rows.notes)
        if not self.classes:
            notes.append("no classes: no two labels differ")
        return notes


def is_container(entry: Entry, kind: type[Container]) -> bool:
    """Whether an entry is a file of a kind, by its name; datasets keeps caches of what it has derived beside them."""
    name = entry.path.lower()
    is_cache = _file_name(name).startswith(b"cache-") and name.endswith(b".arrow")
    return not entry.problem and name.endswith(kind.ENDINGS) and not is_cache


def class_name(value: Any, names: tuple[str, ...] | None) -> str:
    """Class of a stored label, empty for none: null, NaN, blank text, a negative number, or one beyond `names`."""
    if isinstance(value, bytes):
        value = shown(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and names is not None:
        return names[value] if 0 <= value < len(names) else ""
    return "" if value is None else class_named(str(value))


def _is_other(entry: Entry, kind: type[Container]) -> bool:
    return not is_container(entry, kind) and (bool(entry.problem) or _file_name(entry.path) not in _COMPANIONS)


def _rejection(entry: Entry, kind: type[Container]) -> Rejection:
    reason = entry.problem or "not an image"
    return Rejection(shown(entry.path), "", "", reason, entry.detail or f"beside {kind.KIND} files")


def _split_of(path: bytes) -> str:
    """Split that a path names; a folder `label=test` names a class."""
    *folders, name = path.split(b"/")
    kept = [folder for folder in folders if b"=" not in folder or folder.lower().startswith(b"split=")]
    return split_of(b"/".join((*kept, name)))


def _file_name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]
