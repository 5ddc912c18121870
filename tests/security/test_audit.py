"""`make audit` names every difference from constraints.txt, and never reports as safe what it did not look up."""

import importlib.util
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT

# Reports the known advisory if its service knows it; fails for the file of all pins if one of them is vulnerable.
PIP_AUDIT = """#!/bin/sh
case "$*" in
  *"-s {knows}"*) case "$*" in *constraints.txt*) exit {code};; *) echo CVE-2024-3651; exit 1;; esac;;
  *) echo '{{"dependencies": []}}';;
esac
"""


@pytest.fixture
def audit(monkeypatch):
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", ["audit.py"])
    return module


@pytest.mark.parametrize(
    "knows, code, expected, line",
    [("pypi", 0, 0, ""), ("osv", 1, 1, ""), ("none", 1, 0, "advisories were NOT looked up")],
)
def test_main__only_a_service_that_knows_the_known_advisory_is_asked(
    audit, tmp_path, monkeypatch, capsys, knows, code, expected, line
):
    program = tmp_path / "pip-audit"
    program.write_text(PIP_AUDIT.format(knows=knows, code=code))
    program.chmod(0o755)
    monkeypatch.setattr(audit, "PIP_AUDIT", [str(program)])
    monkeypatch.setattr(audit, "differences", lambda _: [])
    assert audit.main() == expected
    assert line in capsys.readouterr().out


def test_differences__names_lines_without_a_version_and_other_packages(audit, monkeypatch, tmp_path):
    packages = [("semmae", "0.1", "{}"), ("NumPy", "2.0", None), ("torch", "2.1+cpu", None), ("pillow", "12", None),
                ("extra.one", "1", None), ("timm", "1", "{}")]  # fmt: skip
    monkeypatch.setattr(audit.importlib.metadata, "distributions", lambda: [
        SimpleNamespace(metadata={"Name": name}, version=version, read_text=lambda _, address=address: address)
        for name, version, address in packages
    ])  # fmt: skip
    path = tmp_path / "constraints.txt"
    path.write_text("numpy==2.0\ntorch==2.1\npillow==13\ntimm==1\nscipy>=1\n--index-url https://example.org\n")
    assert list(audit.differences(path)) == [
        "constraints.txt: 'scipy>=1': expected NAME==VERSION",
        "constraints.txt: '--index-url https://example.org': expected NAME==VERSION",
        "pillow 12 is installed, constraints.txt pins 13",
        "extra-one 1 is installed, constraints.txt pins no version",
        "timm 1 was installed from a folder or an address, expected an index",
    ]


def test_constraints__every_line_pins_a_version(audit):
    assert [fault for fault in audit.differences(ROOT / "constraints.txt") if "expected NAME" in fault] == []
