"""Presets: `quickstart` states every parameter, each other what it changes of it or of the preset it `extends`.

Several at once: the first gives the images and the models, those that follow lay their changes over it.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from config.params import Params, explain
from shards.files import write_text

FOLDER = Path("presets")
BASE = "quickstart"
ORIGIN = "# Preset: "


def preset_names() -> list[str]:
    """All presets, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def compose(*names: str) -> Any:
    """The whole parameter document of presets, with the base's comments; ValueError for an unknown name or bad value."""
    for name in names:
        if name not in preset_names():
            raise ValueError(f"preset {name}: unknown; there are {', '.join(preset_names())}")
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
    """The document itself when it is valid; else a ValueError of one line."""
    try:
        Params.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        raise ValueError(f"{label}: {explain(error)}") from None
    return document


def write_params(document: Any, path: str | Path = "params.yaml", *, preset: str = "") -> None:
    """Write a parameter document whole or not at all; the name of the preset that it comes from stands in its last line."""
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
    """The preset, or presets, that params.yaml comes from, whatever was changed since; empty where it does not say."""
    lines = Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []
    return next((line.removeprefix(ORIGIN) for line in lines if line.startswith(ORIGIN)), "")


def read_document(path: str | Path = "params.yaml") -> Any:
    """params.yaml with its comments, to change and write again."""
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
