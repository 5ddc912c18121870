"""Which of the project's files a module runs: the code dependencies of a stage."""

import ast
import io
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

from shards.files import write_text

PACKAGES = (
    "config",
    "evaluation",
    "images",
    "jobs",
    "models",
    "parts",
    "pipeline",
    "reports",
    "shards",
    "stages",
    "training",
)


def code_files(module: str, root: str | Path = ".") -> list[str]:
    """Paths of all project files that `module` imports, directly or not, itself included, sorted.

    `import` statements anywhere in a file count, also those inside functions. Package files (`__init__.py`) hold
    docstrings only and are left out.
    """
    root = Path(root).resolve()
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _path_of(name, root)
        if path is None or path in found:
            continue
        found.add(path)
        waiting.extend(_imported(str(root / path)))
    return sorted(found)


def _path_of(module: str, root: Path) -> str | None:
    if module.split(".")[0] not in PACKAGES:
        return None
    path = Path(*module.split(".")).with_suffix(".py")
    return path.as_posix() if (root / path).is_file() else None


@cache
def _imported(path: str) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"), path)):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute in this project"
            names.append(node.module)
            names.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


def write_code_deps(path: str | Path = "dvc.yaml") -> bool:
    """Rewrite the `*.py` dependencies of every stage in dvc.yaml from the imports; True when something changed."""
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=2, offset=0)
    text = Path(path).read_text(encoding="utf-8")
    document = yaml.load(text)
    for stage in document["stages"].values():
        data = [dep for dep in stage.get("deps", []) if not dep.endswith(".py")]
        deps = data + code_files(module_of(stage["cmd"]))
        if "deps" in stage:
            stage["deps"][:] = deps
        else:
            stage.insert(list(stage).index("cmd") + 1, "deps", deps)
    buffer = io.StringIO()
    yaml.dump(document, buffer)
    if buffer.getvalue() == text:
        return False
    write_text(path, buffer.getvalue())
    return True


def module_of(command: str) -> str:
    """The module that a stage's command runs: `python -m MODULE ...`."""
    words = command.split()
    assert words[:2] == ["python", "-m"], command
    return words[2]


if __name__ == "__main__":
    print("dvc.yaml: code dependencies " + ("rewritten" if write_code_deps() else "are current"))
