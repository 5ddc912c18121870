"""Tables of labels beside the images: CSV or TSV files with a header, a column of file names and one of labels or splits.

File names: the column whose texts name most images, among equals the first of FILE_COLUMNS. Labels: the first of
LABEL_COLUMNS, or the only other column of a table of two. Splits: the first of SPLIT_COLUMNS; without one, that of the whole
table (train.csv). Case and signs in the names of columns do not count.
"""

import codecs
import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv

from images.sources.classes import class_named
from images.sources.path_index import PathIndex
from images.sources.splits import SPLIT_WORDS, split_named
from images.sources.tree import Root, shown

SUFFIXES = (b".csv", b".tsv")
FILE_COLUMNS = (
    "filename", "file", "filepath", "path", "image", "imagename", "imagefile", "imagefilename", "imagepath", "imageid", "img",
    "imgname", "imgpath", "imgid", "photo", "photoid", "picture", "name", "id", "idcode", "uid", "key",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "class", "classname", "classlabel", "category", "categoryname", "target", "labelname", "species",
    "speciesname", "breed", "variety", "cultivar", "diagnosis", "dx", "level", "grade", "type", "tag", "genus", "family", "y",
    "labelid", "classid", "categoryid",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "dataset", "datasplit")
# Rows of a table that are looked at to find the column of file names.
_SAMPLED_ROWS = 500
_HEAD_BYTES = 2**16
_DELIMITERS = ",;\t|"


class UnusedTable(ValueError):
    """Why a table says nothing of the images."""


class Columns(NamedTuple):
    """Numbers of a table's columns; None where it has none."""

    file: int
    label: int | None
    split: int | None


def is_table(path: bytes) -> bool:
    """Whether a file may be a table of labels by its name."""
    return path.lower().endswith(SUFFIXES)


class TableLabels:
    """What tables say of the images at `paths` (relative, as text), whose folders name the `splits` or none.

    names: class of each image, empty where no table gives one. splits: split of each, empty where none is named.
    used: paths of the tables that say something. lines: one for each table, for the user.
    """

    def __init__(self, paths: Sequence[str], splits: Sequence[str]) -> None:
        self.names, self.splits = [""] * len(paths), list(splits)
        self.used: list[bytes] = []
        self.lines: list[str] = []
        self._paths, self._index = paths, PathIndex(paths, splits)
        self._split_folders = set(splits) - {""}

    def read(self, root: Root, path: bytes, split: str = "") -> None:
        """Enter what a table says; `split` is that of its rows where it has no column of splits.

        ValueError where it gives an image another class or split than a table before it, or a split that is no usual word.
        """
        try:
            if b"submission" in path.lower():
                raise UnusedTable("a submission holds no true labels")
            header, rows = read_table(root, path)
            columns = columns_of(header, rows, self._index)
            counts = self._enter(path, split, header, columns, rows)
        except UnusedTable as unused:
            self.lines.append(f"table {shown(path)} is not used: {unused}")
            return
        self.used.append(path)
        what = ("file names", columns.file), ("classes", columns.label), ("splits", columns.split)
        parts = [f"{kind} in {header[number]!r}" for kind, number in what if number is not None]
        odd = [name for number, name in enumerate(header) if _word(name) in SPLIT_COLUMNS and number != columns.split]
        parts += [f"no split is train, val or test in {name!r}" for name in odd]
        parts += [f"{count} {meaning}" for meaning, count in counts.items() if count]
        self.lines.append(f"table {shown(path)}: {', '.join(parts)}")

    def _enter(self, path: bytes, default: str, header: list[str], columns: Columns, rows: pa.Table) -> dict[str, int]:
        """Enter the rows of a table; how many there are of each kind. Raises `UnusedTable` where no row names one image."""
        names: dict[int, str] = {}
        splits: dict[int, str] = {}
        classes: dict[str, str] = {}
        several: set[int] = set()
        no_image = many_images = 0
        for text, label, word in zip(*(_texts(rows, number) for number in columns), strict=True):
            split = split_named(word) or default
            if word.strip() and not split_named(word):
                raise ValueError(
                    f"data.path: {shown(path)} has {word.strip()!r} in {header[columns.split or 0]!r}; a split is one of "
                    f"{', '.join(SPLIT_WORDS)} or blank; correct it or rename the column"
                )
            places = self._find(text, split, by_column=columns.split is not None)
            if len(places) != 1:
                no_image, many_images = no_image + (not places), many_images + bool(places)
                continue
            # A row brings its own text; one of a class is kept.
            place, name = places[0], classes.setdefault(label, class_named(label))
            if name and names.get(place, name) not in ("", name):
                several.add(place)
            names[place] = names.get(place) or name
            splits[place] = split
        if not names and many_images:
            raise UnusedTable("each row names several images; write paths instead of names")
        if not names:
            raise UnusedTable("no row names an image that is there")
        keeps_folders = columns.split is None and self._split_folders
        for place, name in names.items():
            if place in several:
                self.names[place] = ""
            else:
                self._set(self.names, place, name, path)
            if not keeps_folders:
                self._set(self.splits, place, splits[place], path)
        return {
            "images": len(names),
            "classes": len({name for place, name in names.items() if name and place not in several}),
            "of them without a class": 0 if columns.label is None else sum(not name for name in names.values()),
            "with several classes, which count as none": len(several),
            "rows that name no image": no_image,
            "rows that name several images": many_images,
        }

    def _set(self, values: list[str], place: int, value: str, path: bytes) -> None:
        other = values[place]
        if value and other not in ("", value) and not (values is self.splits and self._split_folders):
            raise ValueError(
                f"data.path: {shown(path)} says that {self._paths[place]} is {value}, "
                f"{' or '.join(map(shown, self.used))} says {other}; keep one of the tables"
            )
        values[place] = value or other

    def _find(self, text: str, split: str, *, by_column: bool) -> list[int]:
        """A name alone is looked for in the folder of its split, if there is one; the folders of a path say where it lies."""
        places = self._index.find(text, split if split in self._split_folders else "")
        return places or (self._index.find(text) if by_column and re.search(r"[/\\]", text) else [])


def columns_of(header: Sequence[str], rows: pa.Table, index: PathIndex) -> Columns:
    """The columns of a table by content and name; raises `UnusedTable`, with what there is, where they cannot be told."""
    words, file = [_word(name) for name in header], file_column(header, rows, index)
    others = [number for number in range(len(header)) if number != file]
    sample = _sample(rows)
    with_splits = [number for number in others if any(map(split_named, sample[number].to_pylist()))]
    split = _first(with_splits, words, SPLIT_COLUMNS)
    label = _first(others, words, LABEL_COLUMNS)
    if label is None and split is None and len(others) == 1 and _repeats(rows[others[0]]):
        label = others[0]
    if label is None and split is None:
        raise UnusedTable(
            f"no column of labels; {_listed(header)}; call it label, or one of {', '.join(LABEL_COLUMNS[1:])}"
        )
    return Columns(file, label, split)


def file_column(header: Sequence[str], rows: pa.Table, index: PathIndex) -> int:
    """The column that names images; raises `UnusedTable`, with what there is, where none does."""
    words, there = [_word(name) for name in header], _listed(header)
    if any(index.find(name) and word not in FILE_COLUMNS for name, word in zip(header, words, strict=True)):
        raise UnusedTable(f"it has no line of column names; write one, such as filename,label ({there})")
    hits = [sum(bool(index.find(text)) for text in texts.to_pylist()) for texts in _sample(rows)]
    most = [number for number, count in enumerate(hits) if count == max(hits)]
    file = _first(most, words, FILE_COLUMNS)
    if file is None and not max(hits):
        raise UnusedTable(f"none of its columns names images; {there}; call it filename")
    return most[0] if file is None else file


def _sample(rows: pa.Table) -> list[pa.ChunkedArray]:
    columns: list[pa.ChunkedArray] = rows.take(
        [*range(0, rows.num_rows, max(1, rows.num_rows // _SAMPLED_ROWS))]
    ).columns
    return columns


def _listed(header: Sequence[str]) -> str:
    return f"its columns are {', '.join(map(repr, header))}"


def _word(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _first(numbers: Sequence[int], words: Sequence[str], names: Sequence[str]) -> int | None:
    """The column whose name stands first among `names`."""
    named = [number for number in numbers if words[number] in names]
    return min(named, key=lambda number: names.index(words[number]), default=None)


def _repeats(column: pa.ChunkedArray) -> bool:
    """Whether a column holds each text twice on average, as classes do and captions do not."""
    return 2 * len(column.unique()) <= len(column)


def _texts(rows: pa.Table, number: int | None) -> Iterator[str]:
    """A column, or blanks for none."""
    if number is None:
        return itertools.repeat("", rows.num_rows)
    return itertools.chain.from_iterable(chunk.to_pylist() for chunk in rows[number].chunks)


def read_table(root: Root, path: bytes) -> tuple[list[str], pa.Table]:
    """Names of the columns, and the rows as text; raises `UnusedTable`."""
    try:
        with root.open(path) as file:
            head = file.read(_HEAD_BYTES)
            line = head.removeprefix(codecs.BOM_UTF8).split(b"\n", 1)[0].decode()
            delimiter = max(_DELIMITERS, key=line.count)
            header = next(csv.reader([line], delimiter=delimiter), [])
            if len(header) < 2:
                raise UnusedTable("its first line is not a list of at least two columns")
            file.seek(0)
            rows = pa.csv.read_csv(
                file,
                pa.csv.ReadOptions(column_names=[str(number) for number in range(len(header))], skip_rows=1),
                pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                pa.csv.ConvertOptions(column_types={str(number): pa.string() for number in range(len(header))}),
            )
    except UnusedTable:
        raise
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise UnusedTable(f"it cannot be read ({' '.join(str(error).split())})") from None
    if not rows.num_rows:
        raise UnusedTable("it has no rows")
    return header, rows
