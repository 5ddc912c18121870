"""Names that become parts of paths, words of commands and keys of results: what each may be, in one place.

A name in params.yaml is a word of a shell command in dvc.yaml and a part of a path. So it holds nothing that either takes
for something else: no separator, dot, blank or quote, no leading hyphen, ASCII alone, and short enough for a file system
with all that is put around it.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

from config.redaction import CONTROL, redacted

# Of an arm, a data set, an optimiser.
NAME = "[a-z0-9][a-z0-9_]{0,47}"
# Of a DVC experiment: what git accepts as the name of a ref, too.
EXPERIMENT = r"(?!.*\.lock$)[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?=[A-Za-z0-9_-])){0,60}"
# What the arguments of stages may be. A seed has one spelling, for its file is found by it.
KINDS = {
    "ARM": NAME,
    "SET": NAME,
    "OPTIMIZER": NAME,
    "SEED": "0|[1-9][0-9]{0,9}",
    "KIND": "transfer|segment",
}
STAGE = "[a-z][a-z0-9_]*(@[a-z0-9_-]+)?"
LONGEST_TEXT = 4096


def arguments(*kinds: str) -> list[Any]:
    """What this stage is run for, one of each of `kinds`, a SEED as a number: from the command, or from DVC's matrix.

    Under DVC the last of them come in the name of the stage (`pretrain@semmae-0`): in a command of dvc.yaml they would be
    words for a shell, before anything has looked at them. Raises ValueError of one line for another number of them, and
    for one that is no such name.
    """
    stage, given = Path(sys.argv[0]).stem, sys.argv[1:]
    _, _, item = os.environ.get("DVC_STAGE", "").partition("@")
    if item and len(given) < len(kinds):
        given += item.split("-")
    if len(given) != len(kinds):
        raise ValueError(f"{stage}: got {len(given)} arguments, expected {' '.join(kinds)}")
    for kind, word in zip(kinds, given, strict=True):
        if not re.fullmatch(KINDS[kind], word, re.ASCII):
            raise ValueError(f"{stage}: {kind}: got {shown(word)}, expected {KINDS[kind]}")
    return [int(word) if kind == "SEED" else word for kind, word in zip(kinds, given, strict=True)]


def stage_name() -> str:
    """What DVC calls the stage that this process is, or its module: its record and its log are called by it."""
    name = os.environ.get("DVC_STAGE", "").rpartition(":")[2]
    return name if re.fullmatch(STAGE, name) and len(name) < 200 else Path(sys.argv[0]).stem


def check_name(name: str, what: str) -> str:
    """The name itself; a ValueError that calls it `what` where it is none."""
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{what}: got {shown(name)}, expected {NAME}")
    return name


def check_text(text: str) -> None:
    """ValueError where free text of params.yaml, a path or the name of a column, holds what no such text does."""
    if CONTROL.search(text):
        raise ValueError("holds a control character, a line break or half a character; remove it")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"holds {len(text)} characters, at most {LONGEST_TEXT} are read")


def shown(text: object, most: int = 80) -> str:
    """A value of others as it stands in a message: quoted, escaped, without secrets, cut."""
    quoted = redacted(ascii(text))
    return quoted if len(quoted) <= most else f"{quoted[:most]}... ({len(quoted)} characters)"
