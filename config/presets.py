"""Presets: `quickstart` states every parameter; any other states its changes to quickstart or to the preset it `extends`.

Presets combine: the first gives the images and the models, the following ones apply their changes to it.
"""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from config.names import did_you_mean
from config.params import Params, explain
from shards.files import write_text

FOLDER = Path("presets")
BASE = "quickstart"
ORIGIN = "# Preset: "


def preset_names() -> list[str]:
    """All presets, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def compose(*names: str) -> Any:
    """The parameter document of one or more presets, with comments; ValueError for an unknown name or a bad value."""
    for name in names:
        if name not in preset_names():
            near = did_you_mean(name, preset_names())
            raise ValueError(f"preset {name}: unknown{near}; there are {', '.join(preset_names())}")
    whole = _composed(names[0])
    for name in names[1:]:
        changes = _read(name)
        changes.pop("extends", None)
        _overlay(whole, changes)
    return check(whole, f"preset {' '.join(names)}")


def _composed(name: str) -> Any:
    document = _read(name)
    if name == BASE:
        return document
    base = _composed(document.pop("extends", BASE))
    _overlay(base, document)
    return base


def _read(name: str) -> Any:
    return read_document(FOLDER / f"{name}.yaml")


def check(document: Any, label: str) -> Any:
    """Return the document if it is valid, else raise a one-line ValueError."""
    validated(document, label)
    return document


def validated(document: Any, label: str) -> Params:
    """The parameters of a document; a one-line ValueError if it is not valid."""
    try:
        return Params.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        raise ValueError(f"{label}: {explain(error)}") from None


def write_params(document: Any, path: str | Path = "params.yaml", *, preset: str = "") -> None:
    """Write a parameter document, whole or not at all. preset: its name, noted in the last line."""
    buffer = io.StringIO()
    _yaml().dump(document, buffer)
    text = buffer.getvalue()
    if preset:
        text = (
            "".join(line for line in text.splitlines(keepends=True) if not line.startswith(ORIGIN))
            + f"{ORIGIN}{preset}\n"
        )
    write_text(path, text)


def preset_of(path: str | Path) -> str:
    """The preset or presets noted in params.yaml, even if edited since; empty if there is no note."""
    lines = Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []
    return next((line.removeprefix(ORIGIN) for line in lines if line.startswith(ORIGIN)), "")


def changes_to_preset(path: str | Path = "params.yaml") -> tuple[str, dict[str, tuple[Any, Any]]]:
    """(preset noted in params.yaml, dotted name -> (value there, value here) of the parameters that differ).

    Without a note the preset is `BASE`. ValueError for one that is gone.
    """
    name = preset_of(path) or BASE
    there, here = (dict(flatten(document)) for document in (compose(*name.split()), read_document(path)))
    return name, {key: (there.get(key), value) for key, value in here.items() if there.get(key) != value}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of nested mappings."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read_document(path: str | Path = "params.yaml") -> Any:
    """A YAML document with its comments, to edit and write back."""
    return _yaml().load(Path(path).read_text(encoding="utf-8"))


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 160
    yaml.preserve_quotes = True
    return yaml


def _overlay(base: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            _overlay(base[key], value)
        else:
            base[key] = value
