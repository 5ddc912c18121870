"""Which files of a folder are its images: image files, or files of many images."""

import contextlib

from images.decoding import SUFFIXES
from images.sources.arrow import ArrowFile
from images.sources.container_source import is_container
from images.sources.containers import Container
from images.sources.parquet import ParquetFile
from images.sources.tree import Entry, Root, shown
from images.sources.webdataset import TarFile

KINDS: tuple[type[Container], ...] = (ParquetFile, ArrowFile, TarFile)
_ARCHIVES = (
    b".zip", b".7z", b".rar", b".tgz", b".tar.gz", b".tbz2", b".tar.bz2", b".txz", b".tar.xz", b".tzst", b".tar.zst",
)  # fmt: skip
# Most that a small file takes in a tar beside its content.
_TAR_BYTES = 2048


def kind_of(root: Root, entries: list[Entry], *, image_column: str) -> tuple[type[Container] | None, list[str]]:
    """The kind to read, None for image files, and lines on the files that are not read.

    Beside image files a table counts only with images in `image_column` or a usual name, and a tar only with twice what they
    take: less is what they were unpacked from. Raises ValueError for two kinds of images, and for a packed tar beside tars.
    """
    loose = [entry for entry in entries if _is_loose(entry)]
    files = {kind: [entry for entry in entries if is_container(entry, kind)] for kind in KINDS}
    present = {kind: some for kind, some in files.items() if some}
    holding = present
    if present and (loose or len(present) > 1):
        holding = {kind: some for kind, some in present.items() if _has_images(root, kind, some, loose, image_column)}
    if len(holding) > 1:
        names = " and ".join(f"{kind.KIND} ({shown(some[0].path)})" for kind, some in holding.items())
        raise ValueError(f"data.path: {root.name} holds images as {names}; leave one kind there")
    kind = next(iter(holding), None if loose else next(iter(present), None))
    packed = packed_among(entries)
    if packed and kind is TarFile:
        raise ValueError(
            f"data.path: {root.name}/{packed} is a packed archive beside tars; unpack it to a .tar, or move it away"
        )
    notes = [f"{len(some)} {other.KIND} files are not read" for other, some in present.items() if other is not kind]
    if kind is not None and loose:
        notes.append(f"{len(loose)} image files beside the {kind.KIND} files are not read")
    return kind, notes


def packed_among(entries: list[Entry]) -> str:
    """An entry that is an archive which has to be unpacked first, else empty."""
    return next((shown(entry.path) for entry in entries if entry.path.lower().endswith(_ARCHIVES)), "")


def _is_loose(entry: Entry) -> bool:
    return not entry.problem and entry.path.lower().endswith(SUFFIXES)


def _has_images(root: Root, kind: type[Container], files: list[Entry], loose: list[Entry], image_column: str) -> bool:
    unpacked = sum(entry.size + _TAR_BYTES for entry in loose)
    if kind is TarFile and sum(entry.size for entry in files) < 2 * unpacked:
        return False
    for entry in files:
        with contextlib.suppress(ValueError):
            if kind(root, entry, image_column, "").has_images():
                return True
    return False
