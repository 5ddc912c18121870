"""Audit the dependencies: what is installed is what constraints.txt pins, and no known advisory is about it.

Advisories come from PyPI or OSV by pip-audit. An index that has none of them answers like one that knows of no fault, so
a version that is known to be vulnerable is asked about first: only a source that knows it is believed.
"""

import argparse
import datetime
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROJECT = "semmae"
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+]+)")
TOOL = "pip-audit==2.10.1"
# Fixed in 3.7: CVE-2024-3651.
KNOWN = ("idna", "3.6")
SERVICES = ("pypi", "osv")
# Of an environment itself.
BOOTSTRAP = {"pip", "setuptools", "wheel"}


class Unreachable(Exception):
    """No source of advisories answers; the message says what each said."""


def main() -> int:
    """0 where nothing is wrong; 1 with a line for every fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--where-reachable", action="store_true", help="without a source of advisories say so, and end well"
    )
    chosen = parser.parse_args()
    pins = read_pins(ROOT / "constraints.txt")
    faults = [*unpinned(ROOT / "constraints.txt"), *unexpected(pins), *inconsistent()]
    print(f"audit: {len(pins)} pinned packages; licences: {licences()}")
    try:
        faults += list(advisories(pins, read_ignored(ROOT / ".ci" / "advisories.toml"), datetime.date.today()))
    except Unreachable as error:
        line = f"audit: advisories were NOT looked up: {error}"
        if not chosen.where_reachable:
            faults.append(line.removeprefix("audit: "))
        else:
            print(line)
    for fault in faults:
        print(f"error: audit: {fault}", file=sys.stderr)
    return int(bool(faults))


def read_pins(path: Path) -> dict[str, str]:
    """Canonical name -> version of every line `NAME==VERSION`."""
    matches = (PIN.fullmatch(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {canonical(match[1]): match[2] for match in matches if match}


def unpinned(path: Path) -> Iterator[str]:
    """Lines that name no version, or another source: an address, a folder, an option."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#") and not PIN.fullmatch(line):
            yield f"{path.name}, line {number}: {line!r} is no NAME==VERSION"


def unexpected(pins: Mapping[str, str]) -> Iterator[str]:
    """Installed packages of another version, without a pin, or from an address or a folder."""
    for found in importlib.metadata.distributions():
        name = canonical(found.metadata["Name"])
        if name == PROJECT or name in BOOTSTRAP:
            continue
        if found.read_text("direct_url.json"):
            yield f"{name} {found.version}: was not installed from an index"
        if name not in pins:
            yield f"{name} {found.version}: installed and not in constraints.txt"
        elif found.version.partition("+")[0] != pins[name].partition("+")[0]:
            yield f"{name} {found.version}: installed, constraints.txt pins {pins[name]}"


def inconsistent() -> Iterator[str]:
    """What a package requires and the environment does not have, pyproject's own ranges included."""
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        yield from answer.stdout.splitlines() or [f"pip check: {' '.join(answer.stderr.split())}"]


def licences() -> str:
    """The licences of what is installed, as the packages state them, the most frequent first."""
    counts = Counter(_licence(found.metadata) for found in importlib.metadata.distributions())
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _licence(metadata: Any) -> str:
    stated = metadata.get("License-Expression")
    classified = [
        line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if line.startswith("License :: ")
    ]
    line = stated or " and ".join(classified) or (metadata.get("License") or "").strip().partition("\n")[0]
    return line[:40] or "not stated"


def read_ignored(path: Path) -> list[dict[str, Any]]:
    """The advisories that are let pass; ValueError for one without package, reason or day."""
    ignored = tomllib.loads(path.read_text(encoding="utf-8")).get("ignored", [])
    for entry in ignored:
        if not (
            entry.keys() == {"id", "package", "reason", "until"}
            and len(entry["reason"]) >= 20
            and isinstance(entry["until"], datetime.date)
        ):
            raise ValueError(
                f"{path.name}: {entry}: expected id, package, a reason of 20 characters or more, and a day"
            )
    return ignored


def advisories(pins: Mapping[str, str], ignored: Sequence[Mapping[str, Any]], today: datetime.date) -> Iterator[str]:
    """Advisories about pinned versions that are not ignored, and ignored ones that are expired or met no more.

    Raises Unreachable where no source knows the advisory that every source should.
    """
    said = {}
    for service in SERVICES:
        known, said[service] = ask({KNOWN[0]: KNOWN[1]}, service)
        if any(vulnerabilities for _, vulnerabilities in known.values()):
            break
    else:
        raise Unreachable("; ".join(f"{service}: {reason}" for service, reason in said.items()))
    found, reason = ask(pins, service)
    if len(found) != len(pins):
        yield f"{service} answered for {len(found)} of {len(pins)} packages ({reason})"
    left = {(entry["package"], entry["id"]): entry for entry in ignored}
    for name, (skipped, vulnerabilities) in found.items():
        if skipped:
            yield f"{name} {pins.get(name, '')}: not audited: {skipped}"
        for vulnerability in vulnerabilities:
            ids = [vulnerability["id"], *vulnerability.get("aliases", [])]
            entry = next((left.pop((name, one)) for one in ids if (name, one) in left), None)
            fixed = ", ".join(vulnerability.get("fix_versions", [])) or "nowhere yet"
            if entry is None:
                yield f"{name} {pins.get(name, '')}: {' '.join(ids)}, fixed in {fixed}"
            elif entry["until"] <= today:
                yield f"{name} {pins.get(name, '')}: {ids[0]} was let pass until {entry['until']}; fixed in {fixed}"
            else:
                print(f"audit: {name}: {ids[0]} is let pass until {entry['until']}: {entry['reason']}")
    for (name, one), _ in left.items():
        yield f"{name}: {one} is ignored and not met; remove it from advisories.toml"


def ask(pins: Mapping[str, str], service: str) -> tuple[dict[str, tuple[str, list[dict[str, Any]]]], str]:
    """Name -> (why it was skipped, its vulnerabilities) as pip-audit finds them, and what else it said in one line."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text("".join(f"{name}=={version.partition('+')[0]}\n" for name, version in pins.items()))
        words = [str(_tool()), "--requirement", str(requirements), "--no-deps", "--disable-pip", "--format", "json"]
        words += ["--progress-spinner", "off", "--vulnerability-service", service]
        answer = subprocess.run(words, capture_output=True, text=True, check=False)
    last = (answer.stderr.strip().splitlines() or ["nothing"])[-1]
    try:
        dependencies = json.loads(answer.stdout)["dependencies"]
    except (ValueError, KeyError):
        return {}, f"no answer ({last[:200]})"
    found = {canonical(one["name"]): (one.get("skip_reason", ""), one.get("vulns", [])) for one in dependencies}
    return found, "; ".join(reason for reason, _ in found.values() if reason)[:200] or "knows of no advisory"


def _tool() -> Path:
    """pip-audit in an environment of its own, which is not the one that is audited."""
    folder = ROOT / ".venv" / "audit"
    program = folder / "bin" / "pip-audit"
    if not program.is_file():
        venv.create(folder, with_pip=True, clear=True)
        install = [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--quiet",
            "install",
            TOOL,
        ]
        answer = subprocess.run(install, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise Unreachable(f"{TOOL} cannot be installed ({' '.join(answer.stderr.split())[-200:]})")
    return program


def canonical(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"error: audit: {error}")
