"""Compare the installed packages with constraints.txt, then let pip-audit look for known advisories about them.

Some package indexes serve no advisories and report every package as safe. So a version with a known advisory is looked up
first: a service that does not report it is not used. Arguments go to pip-audit, for example `--ignore-vuln ID`.
"""

import importlib.metadata
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!]+)")
PIP_AUDIT = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
VULNERABLE, ADVISORY = "idna==3.6", "CVE-2024-3651"
# The project itself, and what every environment has.
UNPINNED = {"semmae", "pip", "setuptools", "wheel"}


def differences(constraints: Path) -> Iterator[str]:
    """Lines that pin no version, and installed packages of another version, without a pin, or not from an index."""
    lines = constraints.read_text(encoding="utf-8").splitlines()
    yield from (f"{constraints.name}: {line!r}: expected NAME==VERSION" for line in lines if not PIN.fullmatch(line))
    pins = {canonical(match[1]): match[2] for match in map(PIN.fullmatch, lines) if match}
    for package in importlib.metadata.distributions():
        name, version = canonical(package.metadata["Name"]), package.version.partition("+")[0]
        if name in UNPINNED:
            continue
        if version != pins.get(name):
            yield f"{name} {version} is installed, constraints.txt pins {pins.get(name, 'no version')}"
        if package.read_text("direct_url.json"):
            yield f"{name} {version} was installed from a folder or an address, expected an index"


def canonical(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def service_with_advisories() -> str | None:
    """The first service that reports the known advisory; None, and a line for each, if none does."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(f"{VULNERABLE}\n")
        file.flush()
        for service in ("pypi", "osv"):
            words = [*PIP_AUDIT, "--aliases", "--format", "json", "--requirement", file.name, "-s", service]
            answer = subprocess.run(words, capture_output=True, text=True, check=False)
            if ADVISORY in answer.stdout:
                return service
            reason = (answer.stderr.strip().splitlines() or ["no answer"])[-1][:200]
            print(f"audit: {service} does not report {ADVISORY} for {VULNERABLE}: {reason}")
    return None


def main() -> int:
    """1 for a difference or an advisory; 0 also if no service answers, which a line says."""
    constraints = ROOT / "constraints.txt"
    if faults := list(differences(constraints)):
        print(*(f"error: audit: {fault}" for fault in faults), sep="\n", file=sys.stderr)
        return 1
    if (service := service_with_advisories()) is None:
        print("audit: advisories were NOT looked up")
        return 0
    words = [*PIP_AUDIT, "-s", service, "-r", str(constraints), *sys.argv[1:]]
    return subprocess.run(words, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
