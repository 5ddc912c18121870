"""Parameters other than those of params.yaml: a preset, arms and seeds, and single values over them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML, YAMLError

from config.names import did_you_mean
from config.presets import check, compose, flatten, preset_names, preset_of, read_document
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

    arms: the baseline is added if it is not among them. changes: dotted key -> value, for existing keys; with data.path,
    data.watch becomes the same unless it is named. Raises ValueError for an unknown key or an impossible value.
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
    changes = changes or {}
    if "data.path" in changes:
        changes = {"data.watch": changes["data.path"], **changes}
    for key, value in changes.items():
        *groups, last = key.split(".")
        place = document
        for group in groups:
            place = place.get(group) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            # Of one group compared by the last word alone: with the group before them all names are alike.
            near = did_you_mean(last, place) if isinstance(place, dict) else did_you_mean(key, dict(flatten(document)))
            raise ValueError(
                f"parameters: {redacted(key)}: no such parameter{near}; params.yaml names them all, as group.name"
            )
        place[last] = value
    baseline = document["compare"]["baseline"]
    if arms and baseline in document["arms"] and baseline not in document["arms"]["names"]:
        document["arms"]["names"].append(baseline)
    return check(document, "parameters"), preset or preset_of("params.yaml")


def added_arms(document: Any, arms: Sequence[str]) -> str:
    """A line about the arm that `changed` added to those that were asked for; empty if it added none."""
    added = [name for name in document["arms"]["names"] if arms and name not in arms]
    return f"arm {added[0]} added: it is the baseline that the others are compared with" if added else ""


def tags(document: Any, preset: str) -> list[str]:
    """What tells a run from others in a list: preset, arms, seeds, and the values that differ from the preset.

    Without a preset, or where it is gone, those that differ from params.yaml.
    """
    is_known = preset and set(preset.split()) <= set(preset_names())
    base = dict(flatten(compose(*preset.split()) if is_known else read_document()))
    differences = {key: value for key, value in flatten(document) if base.get(key, value) != value}
    shown = {key: value for key, value in differences.items() if key.partition(".")[0] not in ("arms", "seeds", "data")}
    return [
        *([f"preset {preset}"] if preset else []),
        *(f"arm {name}" for name in document["arms"]["names"]),
        *(f"seed {seed}" for seed in document["seeds"]),
        *(redacted(f"{key}={value}")[:100] for key, value in shown.items()),
    ]


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
