"""The words that name a split, the same in folders, tables of labels and Parquet files, in any case."""

import re
from collections.abc import Iterable

SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# A word between other words, with a year or `set` behind it at most: seg_train, test_images, train2017, valset.
_WORD = re.compile(rf"(?<![a-z0-9])({'|'.join(SPLIT_WORDS)})(?=(?:\d*|sets?)(?:[^a-z0-9]|$))")


def split_named(name: str) -> str:
    """Split that a whole name says, else empty."""
    return SPLIT_WORDS.get(name.strip().lower(), "")


def split_of(path: bytes) -> str:
    """Split that stands last among the words of a path, else empty."""
    words = _WORD.findall(path.lower().decode(errors="replace"))
    return SPLIT_WORDS[words[-1]] if words else ""


def split_of_table(path: bytes) -> str:
    """Split that the name of a table says, or else its folders; empty where its name says several (train_val.csv)."""
    folder, _, name = path.rpartition(b"/")
    splits = {SPLIT_WORDS[word] for word in _WORD.findall(name.lower().decode(errors="replace"))}
    if not splits:
        return split_of(folder)
    return splits.pop() if len(splits) == 1 else ""


def split_folders(names: Iterable[bytes]) -> dict[bytes, str]:
    """Folder -> split, of those folders beside each other that are splits.

    Names that are a word are; names around one are where train and another split have the same (seg_train beside
    seg_test), for a class may be called test_tube.
    """
    text = {name: name.decode(errors="replace") for name in names}
    whole = {name: split_named(shown) for name, shown in text.items() if split_named(shown)}
    if whole:
        return whole
    families: dict[str, dict[bytes, str]] = {}
    for name, shown in text.items():
        around, words = _WORD.subn("*", shown.lower())
        if words == 1:
            families.setdefault(around, {})[name] = split_of(name)
    split = [family for family in families.values() if "train" in family.values() and len(set(family.values())) > 1]
    return split[0] if len(split) == 1 else {}
