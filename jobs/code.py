"""The code that determines a stage's result, as one digest a file: the code part of a stage's key.

The rule: what determines a result is in its key, what only carries it is not. Networks, losses, masks, augmentation, data
order, optimisers, protocols and the page stand in `RESULT_ROOMS`, and a stage's key holds those of their files that the
stage imports, directly or not. Parameters, shards, records, launching, the walk and tracking carry a result: a change there
reruns nothing and orphans no checkpoint. Versions in their file formats and the tests that compare bits guard them.

Comments, docstrings, blank lines and trailing spaces count for nothing.
"""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Lowest first: a room imports the rooms before it, and none after it.
ROOMS = (
    "shards", "config", "jobs", "models", "parts", "images", "training", "evaluation", "reports", "stages", "pipeline",
)  # fmt: skip
RESULT_ROOMS = ("models", "parts", "images", "training", "evaluation", "reports", "stages")


def code_digests(module: str, root: str | Path = ".") -> dict[str, str]:
    """Path of each file that determines the result of `module` -> digest of its code, by path.

    Raises ValueError where a file is no valid Python.
    """
    files = imported_files(module, root)
    return {path: digest_of(Path(root) / path) for path in files if path.split("/")[0] in RESULT_ROOMS}


def imported_files(module: str, root: str | Path = ".") -> list[str]:
    """Paths of all project files that `module` imports, directly or not, itself included, sorted.

    `import` statements count wherever they stand, also inside functions. Package files (`__init__.py`) only hold docstrings
    and are left out.
    """
    root = Path(root).resolve()
    files: set[str] = set()
    waiting = [module]
    while waiting:
        path = _path_of(waiting.pop(), root)
        if path is not None and path not in files:
            files.add(path)
            waiting.extend(imports_of(root / path))
    return sorted(files)


def _path_of(module: str, root: Path) -> str | None:
    if module.split(".")[0] not in ROOMS:
        return None
    path = Path(*module.split(".")).with_suffix(".py")
    return path.as_posix() if (root / path).is_file() else None


def imports_of(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, and every name `module.name`, which may be one; relative imports are refused."""
    return _imports_of(path, path.stat().st_mtime_ns)


@cache
def _imports_of(path: Path, changed: int) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(_parsed(path, path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute in this project"
            names.append(node.module)
            names.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


def digest_of(path: Path) -> str:
    """32 hexadecimal digits over the code of a Python file."""
    return hashlib.sha256(bare_code(path).encode()).hexdigest()[:32]


def bare_code(path: Path) -> str:
    """The source without comments, docstrings, blank lines and trailing spaces.

    The text itself, and not its syntax tree, so that another version of Python gives the same.
    """
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for docstring in _docstrings(_parsed(path, text)):
        first, last = docstring.lineno - 1, (docstring.end_lineno or docstring.lineno) - 1
        starts_line = not lines[first].encode()[: docstring.col_offset].strip()
        if starts_line and not lines[last].encode()[docstring.end_col_offset :].strip():
            lines[first : last + 1] = [""] * (last + 1 - first)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _docstrings(tree: ast.Module) -> Iterator[ast.Expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield first


def _parsed(path: Path, text: str) -> ast.Module:
    try:
        return ast.parse(text, str(path))
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}; mend the code first") from None
