"""WebDataset tars: `NAME.jpg` (or .png, ...) beside `NAME.cls` or `NAME.json` with its label, and `NAME.mask.png`.

A tar is listed by its headers, and an image is read from its place. Names in a tar are labels and never files.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from images.decoding import SUFFIXES
from images.sources.columns import LABELS, label_key
from images.sources.containers import Container, Rows
from images.sources.items import Encoded, Rejection
from images.sources.tree import LITTER, Entry, Root, is_litter, shown

_MASKS = (b".mask.png", b".seg.png")
_MOST_MEMBERS = 2**22
# Of a long name or an extended header, and of a label's file.
_MOST_HEADER_BYTES, _MOST_LABEL_BYTES = 2**20, 2**20
# A value of a Parquet column of type `binary` holds less.
_MOST_BYTES = 2**31 - 1
_BLOCK, _FIRST = 512, 100


class _File(NamedTuple):
    """A file in a tar: its plain raw name, and where it lies in bytes."""

    name: bytes
    start: int
    size: int


class _Sample(NamedTuple):
    """Files of a row."""

    image: _File
    mask: _File | None


class TarFile(Container):
    """One tar."""

    KIND, ENDINGS = "WebDataset", (b".tar",)

    def __init__(self, root: Root, entry: Entry, image_column: str, label_column: str) -> None:
        super().__init__(root, entry, image_column, label_column)
        self._samples: list[_Sample] = []
        self._file: BinaryIO | None = None

    def has_images(self) -> bool:
        """See `Container`. Looks at its first entries."""
        with self.readable(), self.root.open(self.entry.path) as tar:
            return any(_split(file.name)[1] in SUFFIXES for file, _ in islice(_files(tar, self.entry.size), _FIRST))

    def rows(self) -> Rows:
        """One pass over the headers and the labels."""
        images: dict[bytes, _File] = {}
        masks: dict[bytes, _File] = {}
        labels: dict[bytes, Any] = {}
        others: set[str] = set()
        rejected = []
        with self.readable(), self.root.open(self.entry.path) as tar:
            for file, is_regular in _files(tar, self.entry.size):
                stem, suffix = _split(file.name)
                if is_litter(file.name):
                    rejected.append(self._rejection(file, LITTER, "hidden, or left by a file manager"))
                elif not is_regular:
                    rejected.append(self._rejection(file, "not a file", "a link, a device or a sparse file in a tar"))
                elif suffix in (*_MASKS, *SUFFIXES) and file.size > _MOST_BYTES:
                    detail = f"{file.size} bytes, a Parquet value holds {_MOST_BYTES}"
                    rejected.append(self._rejection(file, "large mask" if suffix in _MASKS else "too large", detail))
                elif suffix in _MASKS:
                    masks[stem] = file
                elif suffix in SUFFIXES:
                    if file.name in images:
                        raise ValueError(f"{self.name}: holds {shown(file.name)} twice; write the tar again")
                    images[file.name] = file
                elif suffix == b".cls" and self.label_column in (LABELS[0], "cls"):
                    labels.setdefault(stem, self._content(tar, file).decode(errors="replace"))
                elif suffix == b".json" and self.label_column:
                    value = self._value(tar, file)
                    # A name says more than the number in .cls.
                    labels.update({stem: value} if value is not None else {})
                else:
                    others.add(shown(suffix))
        stems = [_split(name)[0] for name in images]
        self._samples = [_Sample(*pair) for pair in zip(images.values(), map(masks.get, stems), strict=True)]
        for stem in masks.keys() - stems:
            rejected.append(self._rejection(masks[stem], "mask without an image", "no image has this name"))
        notes = [f"files in tars that are not read: {', '.join(sorted(others)[:10])}"] if others else []
        if self.label_column and not labels:
            notes.append(
                f"a tar has no NAME.cls, and no NAME.json with {self.label_column!r}; unpack it if its folders are the classes"
            )
        return Rows(
            labels=[labels.get(stem) for stem in stems],
            paths=[self.entry.path + b"/" + name for name in images],
            has_masks=any(sample.mask for sample in self._samples),
            notes=tuple(notes),
            rejected=tuple(rejected),
        )

    def read(self, row: int) -> Encoded:
        """See `Container`."""
        image, mask = self._samples[row]
        with self.readable():
            if self._file is None:
                self._file = self.root.open(self.entry.path)
            if mask is None:
                return Encoded(_bytes(self._file, image))
            return Encoded(_bytes(self._file, image), _bytes(self._file, mask), shown(mask.name))

    def close(self) -> None:
        """See `Container`."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _value(self, tar: BinaryIO, file: _File) -> Any:
        """Label in a JSON file, None where it has none."""
        name = f"{self.name}/{shown(file.name)}"
        content = self._content(tar, file)
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            raise ValueError(f"{name}: not readable JSON; write the tar again") from None
        if not isinstance(document, dict):
            return None
        is_default = self.label_column == LABELS[0]
        value = document.get((label_key(name, document, self.label_column) if is_default else self.label_column) or "")
        if isinstance(value, list | dict):
            raise ValueError(
                f"data.label_column: {name} holds several classes, which is not supported; set '' for no classes"
            )
        return value

    def _content(self, tar: BinaryIO, file: _File) -> bytes:
        if file.size > _MOST_LABEL_BYTES:
            raise ValueError(
                f"{self.name}: {shown(file.name)} has {file.size} bytes, a label at most {_MOST_LABEL_BYTES}; "
                "data.label_column: '' reads none"
            )
        return _bytes(tar, file)

    def _rejection(self, file: _File, reason: str, detail: str) -> Rejection:
        return Rejection(shown(self.entry.path + b"/" + file.name), "", "", reason, detail)


class _Headers:
    """A tar as tarfile reads it. What an extended header claims of its own size is memory that tarfile makes room for."""

    def __init__(self, tar: BinaryIO) -> None:
        self._tar, self.seek, self.tell = tar, tar.seek, tar.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._tar.read(size)


def _files(tar: BinaryIO, size: int) -> Iterator[tuple[_File, bool]]:
    """Every entry of a tar of `size` bytes but its folders, and whether it is a regular file.

    Raises tarfile.TarError for damage, and where an entry reaches beyond the file.
    """
    end = count = 0
    try:
        with tarfile.open(fileobj=_Headers(tar), mode="r:", encoding="utf-8") as reader:  # type: ignore[call-overload]
            while (member := reader.next()) is not None:
                # Otherwise it keeps them all.
                reader.members = []
                count += 1
                is_regular = member.isreg() and not member.issparse()
                reaches_beyond = is_regular and not 0 <= member.size <= size - member.offset_data
                if reaches_beyond or member.offset_data <= end:
                    raise tarfile.ReadError(f"{member.name} of {member.size} bytes reaches beyond the file")
                if count > _MOST_MEMBERS:
                    raise tarfile.ReadError(f"more than {_MOST_MEMBERS} entries; split it")
                end = member.offset_data
                if not member.isdir():
                    yield _File(_plain(member.name), member.offset_data, member.size), is_regular
            tar.seek(reader.offset)
    except (tarfile.TarError, OSError, MemoryError):
        raise
    except Exception as error:  # A damaged header makes tarfile raise nearly anything.
        raise tarfile.ReadError(str(error) or type(error).__name__) from None
    if tar.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError(f"cut off or damaged behind {count} entries")


def _plain(name: str) -> bytes:
    """A member's raw name below the tar: `tar cf x.tar .` writes ./a.jpg."""
    parts = name.encode(errors="surrogateescape").split(b"/")
    return b"/".join(part for part in parts if part not in (b"", b".", b".."))


def _bytes(tar: BinaryIO, file: _File) -> bytes:
    tar.seek(file.start)
    return tar.read(file.size)


def _split(name: bytes) -> tuple[bytes, bytes]:
    """What the files of a sample have in common, and the suffix in lower case; that of a mask has two parts."""
    mask = next((suffix for suffix in _MASKS if name.lower().endswith(suffix)), None)
    if mask:
        return name[: -len(mask)], mask
    stem, suffix = os.path.splitext(name)
    return stem, suffix.lower()
