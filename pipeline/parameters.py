"""Parameters other than those of params.yaml: a preset, arms and seeds, and single values over them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML, YAMLError

from config.presets import check, compose, preset_of, read_document
from config.redaction import redacted


def parse_changes(words: Sequence[str]) -> dict[str, Any]:
    """Words `group.name=value` as a mapping, each value read as YAML 1.2; ValueError for any other word."""
    changes: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {word}: expected group.name=value")
        try:
            changes[key] = YAML(typ="safe", pure=True).load(value)
            json.dumps(changes[key])
        except (YAMLError, TypeError):
            raise ValueError(f"--set {word}: {value} is neither number, text, true, false nor a list of them") from None
    return changes


def changed(
    *, preset: str = "", arms: Sequence[str] = (), seeds: Sequence[int] = (), changes: Mapping[str, Any] | None = None
) -> tuple[Any, str]:
    """The parameter document of params.yaml, or of a preset, with changes applied, and the preset's name.

    changes: dotted key -> value, for existing keys. Raises ValueError for an unknown key or an impossible value.
    """
    names = preset.split()
    document = compose(*names) if names else read_document()
    if names:
        # A preset does not choose the user's images.
        document["data"] = read_document()["data"]
    if arms:
        document["arms"]["names"] = list(arms)
    if seeds:
        document["seeds"] = list(seeds)
    for key, value in (changes or {}).items():
        *groups, last = key.split(".")
        place = document
        for group in groups:
            place = place.get(group) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise ValueError(f"{redacted(key)}: no such parameter; params.yaml names them all, as group.name")
        place[last] = value
    return check(document, "parameters"), preset or preset_of("params.yaml")


def is_as_here(document: Any) -> bool:
    """Whether a parameter document has the values of params.yaml in the current folder."""
    return same_values(document, read_document())


def same_values(one: Any, other: Any) -> bool:
    """Whether two parameter documents have the same values, whatever their comments."""
    return _plain(one) == _plain(other)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value
