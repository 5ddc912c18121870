"""What Parquet and Arrow tables of images have in common once it is known which columns count."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from images.decoding import Refused
from images.sources.containers import Rows
from images.sources.items import Encoded

MASK = "mask"


@dataclass(frozen=True)
class Columns:
    """Columns of one table, by name. label: None where `folder_label` is the label of all rows, itself None for no label.

    names: of the classes by number, where the table has them. notes: lines on what was chosen.
    """

    schema: pa.Schema
    image: str
    label: str | None
    folder_label: bytes | None
    names: tuple[str, ...] | None
    notes: tuple[str, ...]

    @property
    def has_mask(self) -> bool:
        """Whether the table has masks."""
        return MASK in self.schema.names and is_image(self.schema.field(MASK).type)

    @property
    def of_image(self) -> list[str]:
        """Columns with an image and its mask."""
        return [self.image, MASK] if self.has_mask else [self.image]

    @property
    def beside_image(self) -> list[str]:
        """Columns that are read before any image."""
        return [*([self.label] if self.label else []), *(["id"] if self._is_own else [])]

    @property
    def leaves(self) -> list[str]:
        """Leaves of a Parquet file with `beside_image` and, where it has them, the paths."""
        return [f"{self.image}.path", *self.beside_image]

    def rows(self, table: pa.Table, *, count: int, without_image: int) -> Rows:
        """Rows of a table of `count` rows that has at least the `leaves`."""
        paths: list[bytes | None] = [None] * count
        if pa.types.is_struct(self.schema.field(self.image).type):
            stored = pc.struct_field(table[self.image], "path").cast(pa.binary()).to_pylist()
            paths = [path or None for path in stored]
        labels = table[self.label].to_pylist() if self.label else [self.folder_label] * count
        ids = table["id"].to_numpy() if self._is_own else None
        return Rows(labels, paths, self.names, ids, self.has_mask, without_image, self.notes)

    def encoded(self, values: dict[str, Any]) -> Encoded:
        """Image and mask of a row, whose `of_image` are given; raises `Refused`."""
        image, _ = _bytes_and_path(values[self.image])
        if image is None:
            raise Refused("empty", "no bytes in this row; only a path" if values[self.image] else "null")
        return Encoded(image, *_bytes_and_path(values.get(MASK)))

    @property
    def _is_own(self) -> bool:
        names = self.schema.names
        return "sha256" in names and "id" in names and self.schema.field("id").type == pa.uint64()


def is_image(kind: pa.DataType) -> bool:
    """Whether values of a type may be encoded images: bytes, or struct<bytes, path>."""
    if not pa.types.is_struct(kind):
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return {"bytes", "path"} <= {field.name for field in kind} and is_image(kind.field("bytes").type)


def class_labels(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Column -> names by number, of those that Hugging Face has as ClassLabel."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"].items()
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return {}
    labels = {name: kind for name, kind in features if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"}
    names = {column: kind.get("names") for column, kind in labels.items()}
    return {column: tuple(map(str, of)) for column, of in names.items() if isinstance(of, list)}


def _bytes_and_path(value: Any) -> tuple[bytes | None, str | None]:
    return (value["bytes"], value["path"]) if isinstance(value, dict) else (value, None)
