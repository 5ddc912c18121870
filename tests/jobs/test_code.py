import ast
import sys
from pathlib import Path

import pytest

from config.params import read_yaml
from jobs.code import PACKAGES, code_files, module_of

STAGES = read_yaml("dvc.yaml")["stages"]
BELOW = {
    "models": set(),
    "parts": set(),
    "pipeline": set(),
    "images": {"pipeline"},
    "training": {"images", "pipeline", "parts", "models"},
    "reports": {"images", "pipeline", "parts", "models", "training"},
}


@pytest.mark.parametrize("name", STAGES)
def test_dvc_yaml__code_dependencies_are_the_imports(name):
    listed = sorted(dep for dep in STAGES[name].get("deps", []) if dep.endswith(".py"))
    assert listed == code_files(module_of(STAGES[name]["cmd"])), "run `make deps`"


def test_code_files__follows_imports_inside_functions(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "stages" / "a.py").write_text("def f():\n    from models import b\n")
    (tmp_path / "models" / "b.py").write_text("import models.c\nimport torch\n")
    (tmp_path / "models" / "c.py").write_text("")
    assert code_files("stages.a", tmp_path) == ["models/b.py", "models/c.py", "stages/a.py"]


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (name.split(".")[0] for name in names)


@pytest.mark.parametrize("package", BELOW)
def test_layers__dependencies_point_one_way(package):
    command_line = {Path("pipeline/cli.py"), Path("pipeline/cli_runs.py")}
    for path in set(Path(package).rglob("*.py")) - command_line:
        used = set(imported_packages(path)) & set(PACKAGES) - {package}
        assert used <= BELOW[package], f"{path} imports {sorted(used - BELOW[package])}"


def test_layers__orchestration_holds_no_torch():
    for path in Path("pipeline").rglob("*.py"):
        assert "torch" not in set(imported_packages(path)), path


def modules_of(files):
    """Third-party packages imported at module level by the files of a stage."""
    found = set()
    for file in files:
        for node in ast.parse(Path(file).read_text()).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", ["train_teacher", "refine_parts", "pretrain", "finetune", "probe"])
def test_stages__training_imports_no_orchestration_packages(name):
    used = modules_of(code_files(f"stages.{name}"))
    assert not used & {"mlflow", "pandas", "prefect", "matplotlib", "dvc"}
    if name in ("pretrain", "finetune", "probe"):
        assert not used & {"timm", "torchvision"}
