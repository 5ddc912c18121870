"""The folders below a root, and which of them hold images."""

from collections.abc import Callable, Iterable, Iterator

from images.decoding import SUFFIXES
from images.sources.tree import Entry

_ENDINGS = frozenset(SUFFIXES)


def has_image_suffix(path: bytes) -> bool:
    """Whether a name ends as those of image files do."""
    return path[path.rfind(b".") :].lower() in _ENDINGS


def joined(*parts: bytes) -> bytes:
    """A path of parts, the empty ones left out."""
    return b"/".join(filter(None, parts))


class FolderTree:
    """Entries by folder. A folder is its raw path below the root, the root itself is empty.

    may_be_image: asked about the files of a folder where no name of them tells.
    """

    def __init__(self, entries: Iterable[Entry], may_be_image: Callable[[bytes], bool]) -> None:
        self._may_be_image = may_be_image
        self._folders = {b""}
        self._subfolders: dict[bytes, list[bytes]] = {}
        self._others: dict[bytes, list[bytes]] = {}
        # Whether an image lies directly in a folder, and at any depth.
        self._has_images: dict[bytes, bool] = {}
        self._holds_image: dict[bytes, bool] = {}
        self._holding_images: dict[bytes, list[bytes]] = {}
        for entry in entries:
            is_folder = entry.problem.endswith("folder")
            folder = entry.path if is_folder else entry.path.rpartition(b"/")[0]
            if folder not in self._folders:
                self._add_folder(folder)
            if entry.problem:
                continue
            if not has_image_suffix(entry.path):
                self._others.setdefault(folder, []).append(entry.path)
            elif folder not in self._has_images:
                self._mark(folder)

    def others(self, folder: bytes) -> list[bytes]:
        """Paths of the readable files directly in a folder whose names are not those of images."""
        return self._others.get(folder, [])

    def subfolders(self, folder: bytes) -> list[bytes]:
        """Names of the folders directly in a folder, in the order of the entries."""
        return self._subfolders.get(folder, [])

    def has_images(self, folder: bytes) -> bool:
        """Whether an image lies directly in a folder."""
        if folder not in self._has_images:
            self._has_images[folder] = any(map(self._may_be_image, self.others(folder)))
        return self._has_images[folder]

    def holding_images(self, folder: bytes) -> list[bytes]:
        """Names of the folders in a folder that hold an image at any depth."""
        if folder not in self._holding_images:
            names = self.subfolders(folder)
            self._holding_images[folder] = [name for name in names if self._holds(joined(folder, name))]
        return self._holding_images[folder]

    def _holds(self, folder: bytes) -> bool:
        if folder not in self._holds_image:
            self._holds_image[folder] = any(map(self.has_images, self._below(folder)))
        return self._holds_image[folder]

    def _below(self, folder: bytes) -> Iterator[bytes]:
        """The folder and all below it."""
        waiting = [folder]
        while waiting:
            yield (folder := waiting.pop())
            waiting.extend(joined(folder, name) for name in self.subfolders(folder))

    def _add_folder(self, folder: bytes) -> None:
        while folder not in self._folders:
            self._folders.add(folder)
            folder, _, name = folder.rpartition(b"/")
            if name:  # A store may have a key with two slashes.
                self._subfolders.setdefault(folder, []).append(name)

    def _mark(self, folder: bytes) -> None:
        self._has_images[folder] = True
        while folder not in self._holds_image:
            self._holds_image[folder] = True
            folder = folder.rpartition(b"/")[0]
