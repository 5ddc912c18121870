"""Names of classes: which texts are none, and in which order they are numbered."""

import re
from collections.abc import Iterable

_NO_LABEL = {"", "nan", "na", "n/a", "<na>", "null"}
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)


def class_named(text: str) -> str:
    """Class that a label's text names; empty for no label: blank, NaN, null, or a negative number."""
    name = text.strip()
    if name.lower() in _NO_LABEL or (name.startswith("-") and _NUMBER.fullmatch(name)):
        return ""
    return name


def in_order(names: Iterable[str]) -> list[str]:
    """Numbers by value, text by letters behind them."""
    return sorted(names, key=_place)


def _place(name: str) -> tuple[bool, float, str]:
    return (False, float(name), name) if _NUMBER.fullmatch(name) else (True, 0.0, name)
