"""What processes that died may have left, in the order in which it is looked for and repaired.

A held file lock or a living process means that somebody is at work, and nothing of theirs is touched. What is marked as
running, or lies half-written, without either of them is a leftover. Each check looks for one kind of leftover: it yields its
findings, and repairs each where `repair` is set.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from config.redaction import one_line
from pipeline.doctor.database import tracking_database
from pipeline.doctor.dvc_locks import dead_dvc_locks
from pipeline.doctor.findings import Finding
from pipeline.doctor.flow_runs import dead_flow_runs
from pipeline.doctor.lock_file import damaged_dvc_lock
from pipeline.doctor.notes import damaged_experiment_notes, damaged_state
from pipeline.doctor.records import unreplayed_records
from pipeline.doctor.scratch import old_scratch, stale_lines
from pipeline.doctor.services import dead_services
from pipeline.doctor.stages import abandoned_stages
from pipeline.doctor.temporaries import half_written_files
from pipeline.doctor.trees import trees

Check = Callable[..., Iterator[Finding]]

# Called as `check(repair=...)`, or for each tree as `check(tree, repair=...)`. What would keep a replay from working comes
# before the replays of the trees.
TREE, MACHINE = "tree", "machine"
CHECKS: tuple[tuple[str, Check], ...] = (
    (TREE, damaged_state),
    (MACHINE, tracking_database),
    (TREE, dead_dvc_locks),
    (TREE, damaged_dvc_lock),
    (TREE, unreplayed_records),
    (TREE, half_written_files),
    (MACHINE, damaged_experiment_notes),
    (MACHINE, old_scratch),
    (MACHINE, stale_lines),
    (MACHINE, dead_services),
    (MACHINE, abandoned_stages),
    (MACHINE, dead_flow_runs),
)


def examine(*, repair: bool) -> list[Finding]:
    """All findings. A check that fails is one as well, and does not keep the others from running."""
    findings: list[Finding] = []
    for kind, check in CHECKS:
        for place in trees() if kind == TREE else [None]:
            try:
                for finding in check(place, repair=repair) if place else check(repair=repair):
                    findings.append(replace(finding, check=check.__name__))
            except Exception as error:
                fault = f"could not be examined: {one_line(error)[:400]}"
                name = check.__name__
                findings.append(Finding(name.replace("_", " "), fault, "mend that, then ask again", check=name))
    return findings
