"""Valid names: they become parts of paths, words of commands and keys of results.

A name in params.yaml is a word of a shell command in dvc.yaml and a part of a path. So it has no separator, dot, blank, quote
or leading hyphen, is ASCII, and is short enough for a file name with prefix and suffix.
"""

import difflib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from config.redaction import CONTROL, redacted

# Name of an arm, a data set or an optimiser.
NAME = "[a-z0-9][a-z0-9_]{0,47}"
# Name of a DVC experiment, which is also the name of a git ref.
EXPERIMENT = r"(?!.*\.lock$)[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?=[A-Za-z0-9_-])){0,60}"
# Arguments of stages. A seed has one spelling, because file names contain it.
KINDS = {
    "ARM": NAME,
    "SET": NAME,
    "OPTIMIZER": NAME,
    "SEED": "0|[1-9][0-9]{0,9}",
    "KIND": "transfer|segment",
}
LABELS = "class"
STAGE = "[a-z][a-z0-9_]*(@[a-z0-9_-]+)?"
LONGEST_TEXT = 4096


def arguments(*kinds: str) -> list[Any]:
    """The arguments of this stage, one for each of `kinds`, a SEED as int: from the command line, or from DVC's matrix.

    Under DVC the last ones come from the name of the stage (`pretrain@semmae-0`): in a command of dvc.yaml a shell would
    interpret them before they are checked. Raises a one-line ValueError for a wrong number of arguments or an invalid one.
    """
    stage, given = Path(sys.argv[0]).stem, sys.argv[1:]
    _, _, item = os.environ.get("DVC_STAGE", "").partition("@")
    if item and len(given) < len(kinds):
        words = item.split("-")
        # The stages that judge by labels have them first in their matrix, to be switched off without.
        given += words[1:] if words[0] == LABELS and len(given) + len(words) == len(kinds) + 1 else words
    if len(given) != len(kinds):
        raise ValueError(f"{stage}: got {len(given)} arguments, expected {' '.join(kinds)}")
    for kind, word in zip(kinds, given, strict=True):
        if not re.fullmatch(KINDS[kind], word, re.ASCII):
            raise ValueError(f"{stage}: {kind}: got {shown(word)}, expected {KINDS[kind]}")
    return [int(word) if kind == "SEED" else word for kind, word in zip(kinds, given, strict=True)]


def stage_name() -> str:
    """DVC's name for the stage of this process, else the name of its module; its record and log have this name."""
    name = os.environ.get("DVC_STAGE", "").rpartition(":")[2]
    return name if re.fullmatch(STAGE, name) and len(name) < 200 else Path(sys.argv[0]).stem


def check_name(name: str, what: str) -> str:
    """Return a valid name; else raise a ValueError that begins with `what`."""
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{what}: got {shown(name)}, expected {NAME}")
    return name


def check_text(text: str) -> None:
    """ValueError if free text of params.yaml (a path, a column) is too long or holds control characters."""
    if CONTROL.search(text):
        raise ValueError("holds a control character, a line break or half of a surrogate pair; remove it")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"holds {len(text)} characters, expected at most {LONGEST_TEXT}")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean X?` for the choice most like a word that is none of them; empty if none is like it."""
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def shown(text: object, most: int = 80) -> str:
    """Untrusted text for a message: quoted, escaped, redacted, shortened to `most` characters."""
    quoted = redacted(ascii(text))
    return quoted if len(quoted) <= most else f"{quoted[:most]}... ({len(quoted)} characters)"
