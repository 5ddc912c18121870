"""The audit of dependencies: it finds what it should, and is never silent about what it did not look up."""

import datetime
import importlib.util
import sys

import pytest

from tests.conftest import ROOT

TODAY = datetime.date(2026, 11, 28)
REASON = "in its web server, which nothing here starts"


@pytest.fixture
def audit(monkeypatch):
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["audit.py"])
    return module


@pytest.fixture
def source(audit, monkeypatch):
    """What the one source that answers knows: name -> (skipped, vulnerabilities)."""
    known = {"idna": ("", [{"id": "PYSEC-2024-60", "aliases": ["CVE-2024-3651"], "fix_versions": ["3.7"]}])}

    def ask(pins, service):
        return ({name: known.get(name, ("", [])) for name in pins} if service == "osv" else {}), "no answer"

    monkeypatch.setattr(audit, "ask", ask)
    return known


def ignored(**changes):
    entry = {"id": "CVE-2026-1", "package": "torch", "reason": REASON, "until": datetime.date(2027, 1, 1)}
    return [{**entry, **changes}]


def found(audit, pins, passed=()):
    return list(audit.advisories(pins, passed, TODAY))


def test_advisories__a_clean_list_is_clean_and_a_vulnerable_version_is_named(audit, source):
    assert found(audit, {"torch": "2.0", "numpy": "1.0"}) == []
    source["torch"] = ("", [{"id": "PYSEC-2026-9", "aliases": ["CVE-2026-1"], "fix_versions": ["2.1"]}])
    assert found(audit, {"torch": "2.0"}) == ["torch 2.0: PYSEC-2026-9 CVE-2026-1, fixed in 2.1"]
    assert found(audit, {"torch": "2.0"}, ignored()) == []
    (line,) = found(audit, {"torch": "2.0"}, ignored(until=TODAY))
    assert "was let pass until 2026-11-28" in line
    assert len(found(audit, {"torch": "2.0"}, ignored(package="numpy"))) == 2


def test_advisories__an_ignored_one_that_is_gone_is_to_be_removed(audit, source):
    assert found(audit, {"torch": "2.0"}, ignored()) == [
        "torch: CVE-2026-1 is ignored and not met; remove it from advisories.toml"
    ]


def test_advisories__a_package_that_was_not_looked_up_is_a_fault(audit, source):
    source["torch"] = ("not found on the index", [])
    assert found(audit, {"torch": "2.0"}) == ["torch 2.0: not audited: not found on the index"]


@pytest.mark.parametrize("answer", [{}, {"idna": ("", [])}, {"idna": ("not found", [])}])
def test_main__a_source_that_does_not_know_the_known_fault_is_none(audit, monkeypatch, capsys, answer):
    """As an index is that has packages and no advisories: it answers that all is well."""
    monkeypatch.setattr(audit, "ask", lambda pins, service: (answer, "no answer"))
    for name in ("unpinned", "unexpected", "inconsistent"):
        monkeypatch.setattr(audit, name, lambda *_: [])
    assert audit.main() == 1
    assert "advisories were NOT looked up: pypi: no answer; osv: no answer" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["audit.py", "--where-reachable"])
    assert audit.main() == 0
    assert "audit: advisories were NOT looked up" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{"reason": "fine"}, {"until": "soon"}, {"more": 1}])
def test_ignored__each_has_a_reason_and_a_day(audit, tmp_path, changes):
    path = tmp_path / "advisories.toml"
    values = {"id": "CVE-2026-1", "package": "torch", "reason": REASON, "until": "2027-01-01", **changes}
    lines = [
        f"{key} = {value if key == 'until' and value[0].isdigit() else repr(value)}" for key, value in values.items()
    ]
    path.write_text("\n".join(["[[ignored]]", *lines]))
    with pytest.raises(ValueError, match=r"advisories.toml: .* expected id, package, a reason"):
        audit.read_ignored(path)


def test_ignored__the_projects_own_list_is_valid(audit):
    audit.read_ignored(ROOT / ".ci" / "advisories.toml")


def test_constraints__every_line_pins_a_version(audit, tmp_path):
    assert list(audit.unpinned(ROOT / "constraints.txt")) == []
    path = tmp_path / "constraints.txt"
    path.write_text(
        "# pins\nnumpy==2.0\ntorch>=2\ngit+https://example.org/x\n--index-url https://example.org\n./x\na==1; b\n"
    )
    assert len(list(audit.unpinned(path))) == 5
    assert audit.read_pins(path) == {"numpy": "2.0"}


def test_unexpected__another_version_and_another_source_are_named(audit, monkeypatch):
    class Found:
        def __init__(self, name, version, address=None):
            self.metadata, self.version, self.address = {"Name": name}, version, address

        def read_text(self, name):
            return self.address

    monkeypatch.setattr(audit.importlib.metadata, "distributions", lambda: [
        Found("semmae", "0.1", "{}"), Found("pip", "23"), Found("NumPy", "2.0"), Found("torch", "2.1+cpu"),
        Found("pillow", "12"), Found("extra.one", "1"), Found("timm", "1", "{}"),
    ])  # fmt: skip
    assert list(audit.unexpected({"numpy": "2.0", "torch": "2.1", "pillow": "13", "timm": "1"})) == [
        "pillow 12: installed, constraints.txt pins 13", "extra-one 1: installed and not in constraints.txt",
        "timm 1: was not installed from an index",
    ]  # fmt: skip
