"""What the project's own code never does: unpickle, evaluate text, start a shell, trust a certificate blindly."""

import ast

import pytest

from jobs.code import ROOMS
from tests.conftest import ROOT

MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml", "commands"}
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "tempfile.mktemp", "torch.hub.load", "pd.read_pickle", "pandas.read_pickle", "ssl._create_unverified_context",
}  # fmt: skip
# (file, what is found there) -> why it is no danger.
EXCEPTIONS = {
    (
        "models/checkpoints.py",
        "import pickle",
    ): "names the error that torch raises for code in a checkpoint; loads nothing",
}


def findings(source):
    """What of the forbidden things a file does, in words."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"import {name}" for name in modules if name.split(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in CALLS or name.endswith(".to_pickle"):
            yield name
        if given.get("shell", "False") != "False":
            yield f"{name} with a shell"
        if given.get("verify") == "False":
            yield f"{name} without certificates"
        if name == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only"
        if given.get("allow_pickle", "False") != "False":
            yield f"{name} of pickled objects"
        if name.split(".")[-1] == "YAML" and given.get("typ", "'safe'") != "'safe'":
            yield "YAML of objects"


@pytest.mark.parametrize("source", [
    "import pickle", "from joblib import load", "import yaml", "eval(text)", "__import__(name)", "os.system('ls')",
    "subprocess.run(command, shell=True)", "subprocess.run(command, shell=wanted)", "torch.load(path)",
    "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)", "YAML(typ='unsafe')",
    "requests.get(url, verify=False)", "table.to_pickle(path)",
])  # fmt: skip
def test_findings__know_each_forbidden_thing(source):
    assert len(list(findings(source))) == 1


def test_findings__know_what_is_harmless():
    harmless = (
        "model.eval()\ntorch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nYAML(typ='safe', pure=True)"
    )
    assert not list(findings(f"{harmless}\nsubprocess.run(['git', name])\nre.compile(text)\nYAML()"))


def test_code__does_none_of_it_but_for_the_exceptions():
    found = {
        (path.relative_to(ROOT).as_posix(), what)
        for package in (*ROOMS, "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        for what in findings(path.read_text(encoding="utf-8"))
    }
    assert found == set(EXCEPTIONS)
