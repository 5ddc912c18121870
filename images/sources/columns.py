"""Which columns of a table hold the images and the classes.

A column is the one that is configured, or where it has the default's name and is absent, the only one of a usual name. A
folder `KEY=VALUE` is a column as well, as Hive, Spark and pandas write it.
"""

from collections.abc import Collection, Iterable
from itertools import islice
from urllib.parse import unquote_to_bytes

import pyarrow as pa

from images.sources.tables import MASK, Columns, class_labels, is_image
from images.sources.tree import shown

# The first of each is the default of its parameter. In any case.
IMAGES = (
    "image", "images", "img", "imgs", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes", "img_bytes",
    "image_data", "pixel_values", "bytes",
)  # fmt: skip
LABELS = (
    "label", "labels", "fine_label", "class", "classes", "cls", "class_name", "class_id", "class_label", "target",
    "targets", "category", "category_id", "category_name", "label_name", "label_id", "y",
)  # fmt: skip
# How Hive writes null.
_NULL = b"__HIVE_DEFAULT_PARTITION__"
_EMBED = "datasets.Dataset.save_to_disk(FOLDER)"


def find_columns(path: bytes, schema: pa.Schema, image: str, label: str) -> Columns:
    """Columns of the table at `path`. image, label: data.image_column and data.label_column.

    Raises ValueError where there is none that can be used, or more than one.
    """
    name = shown(path)
    if len(set(schema.names)) < len(schema.names):
        raise ValueError(f"{name}: two columns have one name among {_listed(schema.names)}; rename one of them")
    folders = dict(part.split(b"=", 1) for part in path.split(b"/")[:-1] if b"=" in part)
    partitions = {shown(key): None if value == _NULL else unquote_to_bytes(value) for key, value in folders.items()}
    names = class_labels(schema)
    found_image = _image_column(name, schema, image)
    found_label = label_key(name, [*schema.names, *partitions], label, names)
    notes = []
    if found_image != image:
        notes.append(f"images are read from the column {found_image!r}: there is no {image!r}")
    if found_label and found_label != label:
        notes.append(f"classes are read from {found_label!r}: there is no {label!r}")
    if label and not found_label:
        notes.append(f"no column of labels among {_listed(schema.names)}; data.label_column may name one")
    if found_label is None or found_label not in schema.names:
        return Columns(schema, found_image, None, partitions.get(found_label or ""), None, tuple(notes))
    _check_label(name, found_label, schema.field(found_label).type)
    return Columns(schema, found_image, found_label, None, names.get(found_label), tuple(notes))


def has_images(schema: pa.Schema, image: str) -> bool:
    """Whether a table has images in the column `image`, or under a usual name where that is the default."""
    return any(column == image or (image == IMAGES[0] and column.lower() in IMAGES) for column in _usable(schema))


def label_key(name: str, keys: Collection[str], label: str, classed: Collection[str] = ()) -> str | None:
    """The one of `keys` that holds the classes, None where none does.

    label: data.label_column. classed: those that are known to hold classes. Raises ValueError for several, and where
    `label` is none of them and not the default.
    """
    if not label or label in keys:
        return label or None
    if label != LABELS[0]:
        raise ValueError(f"data.label_column: {name} has no column {label!r}, only {_listed(keys)}; '' for no classes")
    candidates = [key for key in keys if key.lower() in LABELS or key in classed]
    if len(candidates) > 1:
        raise ValueError(
            f"data.label_column: {name} has classes in {_listed(candidates)}; name one of them, '' for no classes"
        )
    return candidates[0] if candidates else None


def only_paths(name: str) -> ValueError:
    """The error for a source without any bytes."""
    return ValueError(
        f"data.image_column: no row of {name} has the bytes of an image, only paths or null; use the folder with these files, "
        f"or run {_EMBED} where they lie, which stores their bytes"
    )


def _image_column(name: str, schema: pa.Schema, image: str) -> str:
    usable = _usable(schema)
    if image in usable:
        return image
    wanted = image
    if image == IMAGES[0]:
        candidates = [column for column in usable if column.lower() in IMAGES] or usable
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise ValueError(f"data.image_column: {name} has images in {_listed(candidates)}; name one of them")
        wanted = next((column for column in schema.names if column.lower() in IMAGES), image)
    if wanted not in schema.names:
        raise ValueError(
            f"data.image_column: {name} has no column {image!r} of encoded images, only {_listed(schema.names)}; name that "
            "of the images there, and that of the classes in data.label_column ('' for none)"
        )
    kind = schema.field(wanted).type
    raise ValueError(f"data.image_column: {wanted!r} of {name} holds {_unusable(wanted, kind)}")


def _unusable(column: str, kind: pa.DataType) -> str:
    """What a column holds that is no encoded image, and what to do."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return (
            "text, as paths or URLs, and no images; download them into folders <class>/*, or store their bytes: "
            f"cast_column({column!r}, datasets.Image()), then {_EMBED}"
        )
    if _is_list(kind) and is_image(kind.value_type):
        return f"lists of images; store one image a row, as explode({column!r}) of pandas does"
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        return f"paths and no bytes; use the folder with these files, or {_EMBED}, which stores their bytes"
    return f"{_short(kind)}; expected are encoded images (JPEG, PNG, ...): bytes, or struct<bytes, path>"


def _check_label(name: str, column: str, kind: pa.DataType) -> None:
    if _is_list(kind):
        raise ValueError(
            f"data.label_column: {column!r} of {name} holds lists, several classes an image, which is not supported; "
            "make a column of one class each, or set '' for no classes"
        )
    if pa.types.is_nested(kind):
        raise ValueError(
            f"data.label_column: {column!r} of {name} holds {_short(kind)}; a class is a number or a text: name another "
            "column, or '' for no classes"
        )


def _listed(names: Iterable[str]) -> str:
    """The first names."""
    first = list(islice(names, 21))
    return ", ".join(first[:20]) + (", ..." if len(first) > 20 else "")


def _short(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _usable(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if field.name not in (MASK, "sha256") and is_image(field.type)]


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
