"""Names as charts and pictures can draw them: their font lacks the letters of many scripts, where the page has the reader's."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

from matplotlib.font_manager import findfont, get_font

FONT = "DejaVu Sans"
# Characters of a class name; the rest would reach into the picture.
LONGEST = 14


def drawable(text: str, otherwise: str) -> str:
    """The text in one line of composed letters; `otherwise` if the font lacks one, or it is written from right to left."""
    line = " ".join(unicodedata.normalize("NFC", text).split())
    return line if line and all(map(_is_drawn, line)) else otherwise


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and end in `most` characters."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"


def class_names(classes: Sequence[str]) -> list[str]:
    """A name for each class that can be drawn and that no other has: its own, shortened, or `class` and its number."""
    names = [shortened(drawable(name, ""), LONGEST) for name in classes]
    counts = Counter(names)
    return [name if name and counts[name] == 1 else f"class #{place}" for place, name in enumerate(names)]


def _is_drawn(letter: str) -> bool:
    return letter.isprintable() and ord(letter) in _letters() and unicodedata.bidirectional(letter) not in ("R", "AL")


@cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())
