"""One file of many images, whatever its format: what a source of such files asks of each."""

import contextlib
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from images.sources.items import Encoded, Rejection
from images.sources.tree import Entry, Root, shown


class Rows(NamedTuple):
    """What is read of a file before its images, a value for each row.

    labels: as they are stored. paths: None where the file says none. names: of the classes by number, where the file has them.
    ids: of a shard of our own, else None. without_image: rows without bytes, as far as it is known.
    """

    labels: list[Any]
    paths: list[bytes | None]
    names: tuple[str, ...] | None = None
    ids: np.ndarray | None = None
    has_masks: bool = False
    without_image: int = 0
    notes: tuple[str, ...] = ()
    rejected: tuple[Rejection, ...] = ()


class Container(ABC):
    """A file with rows of images. Each method raises ValueError, a line that names the file, where it cannot be read.

    KIND: its format. ENDINGS: of the names of such files, in lower case.
    """

    KIND: ClassVar[str]
    ENDINGS: ClassVar[tuple[bytes, ...]]

    def __init__(self, root: Root, entry: Entry, image_column: str, label_column: str) -> None:
        self.root, self.entry, self.image_column, self.label_column = root, entry, image_column, label_column
        self.name = f"{root.name}/{shown(entry.path)}"

    @abstractmethod
    def has_images(self) -> bool:
        """Whether it seems to hold images: a look at its head."""

    @abstractmethod
    def rows(self) -> Rows:
        """All of it but the images; before `read`."""

    @abstractmethod
    def read(self, row: int) -> Encoded:
        """Image and mask of a row; raises `Refused`. Leaves the file open."""

    @abstractmethod
    def close(self) -> None:
        """Close what `read` has left open."""

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """Turn what damage raises into one line."""
        try:
            yield
        except (OSError, pa.ArrowException, tarfile.TarError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{self.name}: not a readable {self.KIND} file ({reason}); fetch it again") from None
