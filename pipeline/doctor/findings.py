"""What a check finds, and how the command shows it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.doctor.environment import Fact

Facts = Mapping[str, Fact]
# Remedies, by whether the repair was asked for.
REMOVE = ("repair removes it", "removed")


@dataclass(frozen=True)
class Finding:
    """A leftover. fault: the same words for all of a kind. remedy: what a repair will do, or did.

    detail: which one it is at this `place`. check: the name of the check that found it.
    """

    place: str
    fault: str
    remedy: str
    detail: str = ""
    check: str = ""

    def __str__(self) -> str:
        return f"{self._which}: {self.fault}; {self.remedy}"

    @property
    def _which(self) -> str:
        return f"{self.place} ({self.detail})" if self.detail else self.place


def grouped(findings: Iterable[Finding]) -> Iterator[str]:
    """A line for each kind of finding, with their number and the first of them."""
    kinds: dict[tuple[str, str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        kinds[finding.check, finding.fault, finding.remedy].append(finding)
    for first, *more in kinds.values():
        yield f"{first._which} and {len(more)} more: {first.fault}; {first.remedy}" if more else str(first)


def lines_of(facts: Facts, findings: Sequence[Finding], left: Sequence[Finding], *, verbose: bool) -> Iterator[str]:
    """What a user reads. findings: before a repair. left: after it; the same ones where nothing was repaired."""
    for name, (value, advice) in facts.items():
        yield f"{name:<9} {value}{f'; {advice}' if advice else ''}"
    yield from map(str, findings) if verbose else grouped(findings)
    count = f"{len(findings)} finding{'s' * (len(findings) != 1)}"
    if findings is not left:
        yield f"{count}, {f'{len(left)} left' if left else 'all mended'}"
    else:
        yield f"{count}; `semmae doctor --repair` mends them, `--verbose` lists each" if findings else "all is well"


def as_document(facts: Facts, findings: Sequence[Finding], left: Sequence[Finding]) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "environment": {name: fact._asdict() for name, fact in facts.items()},
        "findings": [asdict(finding) for finding in findings],
        "left": len(left),
    }
