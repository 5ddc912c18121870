"""Which image a text means: a path, its end, or a file's name, with or without the ending of an image file."""

import unicodedata
from collections.abc import Iterator, Sequence

from images.decoding import SUFFIXES

_ENDINGS = {suffix.decode() for suffix in SUFFIXES}
# Images of one name that are compared by their endings.
_FEW = 8


class PathIndex:
    """Paths (relative, as text) found by what tables write. A split narrows the search to its images.

    A text and a path fit where the shorter is the end of the longer, part by part: /data/train/1.jpg and train/1.jpg,
    1 and train/1.jpg, but not test/1 and train/1.jpg.
    """

    def __init__(self, paths: Sequence[str], splits: Sequence[str]) -> None:
        self._paths, self._splits = [_normal(path) for path in paths], splits
        self._depth = max((path.count("/") + 1 for path in self._paths), default=1)
        # By number of parts (0: the whole path) and split.
        self._ends: dict[tuple[int, str], dict[str, int | list[int]]] = {}

    def find(self, text: str, split: str = "") -> list[int]:
        """Places of the paths that fit; several where the text does not tell them apart."""
        wanted = _normal(text)
        if not wanted:
            return []
        places = next((found for found in self._lookups(wanted, split) if found != []), [])
        if isinstance(places, int):
            return [places]
        same = [place for place in places if self._paths[place].endswith(wanted)] if len(places) <= _FEW else []
        return same or places

    def _lookups(self, wanted: str, split: str) -> Iterator[int | list[int]]:
        """The text as a path, as the end of longer ones, then its ends as paths."""
        # As it is first: what follows the last dot may be no ending.
        for name in dict.fromkeys((wanted, _without_ending(wanted))):
            parts = name.rsplit("/", self._depth)
            yield self._among(0, split).get(name, [])
            if len(parts) < self._depth:
                yield self._among(len(parts), split).get(name, [])
            for start in range(1, len(parts)):
                yield self._among(0, split).get("/".join(parts[start:]), [])

    def _among(self, parts: int, split: str) -> dict[str, int | list[int]]:
        if (parts, split) not in self._ends:
            ends: dict[str, int | list[int]] = {}
            for place, path in enumerate(self._paths):
                if not split or self._splits[place] == split:
                    name = _without_ending(path)
                    pieces = name.rsplit("/", parts)
                    end = name if not parts or len(pieces) <= parts else name[len(pieces[0]) + 1 :]
                    # Most are alone: a number takes a tenth of a list.
                    others = ends.setdefault(end, place)
                    if isinstance(others, list):
                        others.append(place)
                    elif others != place:
                        ends[end] = [others, place]
            self._ends[parts, split] = ends
        return self._ends[parts, split]


def _normal(text: str) -> str:
    """One form of a path: composed letters, `/`, no blank ends, no `.` and no leading slash."""
    text = text.strip()
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if "/" in text or "\\" in text:
        text = "/".join(part for part in text.replace("\\", "/").split("/") if part not in ("", "."))
    return text


def _without_ending(path: str) -> str:
    dot = path.rfind(".")
    return path[:dot] if path[dot:].lower() in _ENDINGS else path
