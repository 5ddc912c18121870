import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from jobs.code import RESULT_ROOMS, ROOMS, bare_code, code_digests, imported_files, imports_of

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
ORCHESTRATION = {"mlflow", "prefect", "dvc", "matplotlib", "jinja2"}


def project_imports(root="."):
    """File -> the project's files that it imports."""
    root = Path(root)
    files = [path.relative_to(root) for room in ROOMS for path in sorted((root / room).rglob("*.py"))]
    names = {".".join(path.with_suffix("").parts): path for path in files}
    return {path: {names[name] for name in imports_of(root / path) if name in names} - {path} for path in files}


def broken_rules(imports):
    """A line for each import that points up, and for a circle."""
    for path, others in imports.items():
        for other in sorted(others):
            if ROOMS.index(other.parts[0]) > ROOMS.index(path.parts[0]):
                yield f"{path} imports {other}: {path.parts[0]}/ stands below {other.parts[0]}/"
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        yield f"circle: {' -> '.join(map(str, error.args[1]))}"


def test_imports__go_down_only_and_make_no_circle():
    assert list(broken_rules(project_imports())) == []


def tree(folder, **sources):
    for name, source in sources.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder


def test_import_law__names_an_import_that_points_up_and_a_circle(tmp_path):
    tree(tmp_path, stages__a="def f():\n    import pipeline.b\n", pipeline__b="")
    tree(tmp_path, models__c="from models import d\n", models__d="import models.c\n")
    up, circle = broken_rules(project_imports(tmp_path))
    assert up == "stages/a.py imports pipeline/b.py: stages/ stands below pipeline/"
    assert circle.startswith("circle: ") and "models/c.py" in circle and "models/d.py" in circle


def third_party(path):
    """Packages of others that a file imports when it is imported."""
    names = set()
    for node in ast.parse(Path(path).read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names) - set(ROOMS)


@pytest.mark.parametrize("room", ["models", "parts"])
def test_models_and_parts__are_pure(room):
    used = set().union(*(third_party(path) for path in Path(room).rglob("*.py")))
    assert used <= {"torch", "torchvision", "numpy", "timm", "safetensors", "scipy", "sklearn"}


def test_pipeline__holds_no_torch_but_where_it_registers_a_model():
    for path in set(Path("pipeline").rglob("*.py")) - {Path("pipeline/tracking/registering.py")}:
        assert "torch" not in third_party(path), path


@pytest.mark.parametrize("name", ["train_teacher", "refine_parts", "pretrain", "finetune", "probe"])
def test_stages__training_imports_no_orchestration_packages(name):
    used = set().union(*(third_party(path) for path in imported_files(f"stages.{name}")))
    assert not used & ORCHESTRATION
    if name in ("pretrain", "finetune", "probe"):
        assert not used & {"timm", "torchvision"}


def test_imported_files__follows_imports_inside_functions(tmp_path):
    tree(
        tmp_path,
        stages__a="def f():\n    from models import b\n",
        models__b="import models.c\nimport torch\n",
        models__c="",
    )
    assert imported_files("stages.a", tmp_path) == ["models/b.py", "models/c.py", "stages/a.py"]


def test_code_digests__leave_infrastructure_out(tmp_path):
    tree(tmp_path, stages__a="import shards.b\nimport models.c\n", shards__b="", models__c="")
    assert list(code_digests("stages.a", tmp_path)) == ["models/c.py", "stages/a.py"]
    assert set(RESULT_ROOMS) < set(ROOMS)


SOURCE = '''"""About the file."""

import torch  # for tensors


def f(x):
    """About f.

    More of it.
    """
    # Why.
    text = """no docstring"""
    return x + "# no comment"  # about the result
'''


def test_bare_code__leaves_out_comments_docstrings_and_blank_lines_alone(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(SOURCE)
    assert bare_code(path).splitlines() == [
        "import torch",
        "def f(x):",
        '    text = """no docstring"""',
        '    return x + "# no comment"',
    ]


@pytest.mark.parametrize(
    ("old", "new"), [("x + ", "x - "), ("no docstring", "other"), ("# no comment", "other"), ("f(x)", "f(x, y)")]
)
def test_bare_code__any_change_of_code_changes_it(tmp_path, old, new):
    one, other = tmp_path / "a.py", tmp_path / "b.py"
    one.write_text(SOURCE)
    other.write_text(SOURCE.replace(old, new))
    assert bare_code(one) != bare_code(other)


def test_bare_code__ends_lines_where_python_does(tmp_path):
    (tmp_path / "a.py").write_text('text = "\u2028"\nx = 1  # why\n')
    assert bare_code(tmp_path / "a.py") == 'text = "\u2028"\nx = 1'


def without_docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)


def test_bare_code__of_the_project_is_its_syntax_without_docstrings():
    compared = 0
    for path in (path for room in RESULT_ROOMS for path in Path(room).rglob("*.py")):
        try:
            bare = ast.parse(bare_code(path))
        except SyntaxError:  # a function of a docstring alone has no body left
            continue
        compared += 1
        assert ast.dump(bare) == without_docstrings(ast.parse(path.read_text())), path
    assert compared > 50


def test_code_digests__a_syntax_error_is_one_line(tmp_path):
    tree(tmp_path, stages__a="def f(:\n")
    with pytest.raises(ValueError, match=r"a\.py, line 1: .*mend the code first"):
        code_digests("stages.a", tmp_path)
