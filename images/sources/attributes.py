"""attributes.csv beside the images: a row an image, a column with its path or name, and columns of whatever is known of it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from images.sources.items import Item
from images.sources.label_tables import UnusedTable, file_column, read_table
from images.sources.path_index import PathIndex
from images.sources.tree import root_of, shown
from shards.files import whole_file
from shards.row_index import SPLITS

FILE = "attributes.csv"
ATTRIBUTES = FILE.encode()
WITHOUT = "or set data.attributes to []"

# Attribute -> id of an image -> its value.
Attributes = Mapping[str, Mapping[int, str]]


def read_attributes(place: str, names: Sequence[str], items: Sequence[Item]) -> Attributes:
    """What attributes.csv at `place` says of `names`; an empty cell is no value. Raises ValueError where it lacks one of them.

    A row means an image as a table of labels does: see `images.sources.label_tables`.
    """
    if not names:
        return {}
    where = f"data.attributes {list(names)}: {place}/{FILE}"
    try:
        header, rows = read_table(root_of(place), ATTRIBUTES)
        index = PathIndex([shown(item.path) for item in items], [item.split for item in items])
        files = rows[file_column(header, rows, index)].to_pylist()
    except UnusedTable as unused:
        raise ValueError(f"{where}: {unused}; put the table there, {WITHOUT}") from None
    if missing := [name for name in names if name not in header]:
        raise ValueError(f"{where}: no column {missing[0]}; there are {', '.join(header)}")
    places = [index.find(text) for text in files]
    if twice := [text for text, found in zip(files, places, strict=True) if len(found) > 1]:
        raise ValueError(f"{where}: {twice[0]!r} names several images; write paths instead of names")
    ids = [items[found[0]].id if found else None for found in places]
    columns = {name: rows[header.index(name)].to_pylist() for name in names}
    return {
        name: {key: text.strip() for key, text in zip(ids, texts, strict=True) if key is not None and text.strip()}
        for name, texts in columns.items()
    }


def check_attributes(attributes: Attributes, kept: Mapping[str, Sequence[int]]) -> None:
    """Raise ValueError for an attribute that cannot be probed. kept: split -> ids of the images that were kept."""
    for name, values in attributes.items():
        held = {split: {values[key] for key in ids if key in values} for split, ids in kept.items()}
        if len(held["train"]) < 2:
            raise ValueError(
                f"data.attributes: {name} has {len(held['train'])} value(s) among the training images, and a probe needs two; "
                "leave it out"
            )
        if empty := [split for split in SPLITS if not held[split]]:
            raise ValueError(f"data.attributes: no image of {empty[0]} has a value of {name}; leave it out")


def write_attributes(path: str, attributes: Attributes, ids: Sequence[int]) -> None:
    """Write a Parquet file: id, ascending, and a text or null for each attribute, of the images that have any."""
    named = sorted({key for values in attributes.values() for key in values} & set(ids))
    columns = {"id": pa.array(np.array(named, dtype=np.uint64))}
    columns |= {name: pa.array([values.get(key) for key in named], pa.string()) for name, values in attributes.items()}
    with whole_file(path) as file:
        pq.write_table(pa.table(columns), file, compression="zstd", write_page_checksum=True)
