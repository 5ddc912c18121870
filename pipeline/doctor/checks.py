"""What `semmae doctor` checks, in order, and the command's one function.

A held file lock or a living process means that somebody is at work, and nothing of theirs is touched. What is marked as
running, or lies half-written, without either of them is a leftover. Each check looks for one kind of leftover: it yields a
line for each finding, and repairs it where `repair` is set.
"""

from collections.abc import Callable, Iterator

from pipeline.doctor.database import tracking_database
from pipeline.doctor.dvc_locks import dead_dvc_locks
from pipeline.doctor.flow_runs import dead_flow_runs
from pipeline.doctor.lock_file import damaged_dvc_lock
from pipeline.doctor.notes import damaged_experiment_notes, damaged_state
from pipeline.doctor.records import unreplayed_records
from pipeline.doctor.scratch import old_scratch
from pipeline.doctor.services import dead_services
from pipeline.doctor.stages import abandoned_stages
from pipeline.doctor.temporaries import half_written_files
from pipeline.doctor.trees import trees

Check = Callable[..., Iterator[str]]

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
    (MACHINE, dead_services),
    (MACHINE, abandoned_stages),
    (MACHINE, dead_flow_runs),
)


def examine(*, repair: bool) -> list[str]:
    """A line for every finding: the place, the fault, and what the repair will do, or did.

    A check that fails is a line as well, and does not keep the others from running.
    """
    lines: list[str] = []
    for kind, check in CHECKS:
        for place in trees() if kind == TREE else [None]:
            try:
                lines.extend(check(place, repair=repair) if place else check(repair=repair))
            except Exception as error:
                reason = " ".join(str(error).split())[:400] or type(error).__name__
                lines.append(f"{check.__name__.replace('_', ' ')}: could not be examined: {reason}")
    return lines
