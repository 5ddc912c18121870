"""What a flow run shows on its page beside its stages: the result, the table of all stages, the end of a failed one."""

import re
from pathlib import Path
from typing import Any

from config.redaction import one_line
from pipeline.execution import Outcome, repeat
from pipeline.scheduling.services import run_page
from pipeline.tracking.writer import Replayed
from pipeline.walk import Walk, unchanged


def key_of(name: str) -> str:
    """The name of a stage as Prefect takes it for the key of an artifact."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def failure(outcome: Outcome, root: Path) -> str:
    """Markdown: the last lines of a failed stage, and the command that repeats it."""
    lines = "\n".join(outcome.last_lines)
    return (
        f"`{outcome.stage}` failed. The end of `{outcome.log}`:\n\n```\n{lines}\n```\n\nTo repeat it:\n\n```\n"
        f"{repeat(outcome.stage, root)}\n```\n"
    )


def stages(walk: Walk, written: Replayed) -> list[dict[str, Any]]:
    """A row for each stage of the graph: how it ended, and its run in MLflow."""
    digests = walk.digests()
    rows: list[dict[str, Any]] = []
    for outcome in (*unchanged(walk.graph, walk.finished), *walk.finished.values()):
        run = written.runs.get(outcome.stage)
        page = run_page(written.experiment, run) if run else ""
        rows.append(
            {
                "stage": outcome.stage,
                "result": outcome.status,
                "seconds": round(outcome.seconds, 1),
                "device": outcome.device,
                "digest": digests.get(outcome.stage, ""),
                "MLflow": f"[run]({page})" if page else "",
            }
        )
    return rows


def result(root: Path, written: Replayed) -> str:
    """Markdown: the verdict and the table of the arms of `root`, the current folder, and where the rest is."""
    # pandas, which only the end of a walk needs.
    from pipeline.tracking import headline

    page = run_page(written.experiment, written.pipeline) if written.pipeline else ""
    links = [f"- report: `{root / 'report' / 'report.html'}`", *([f"- [this run in MLflow]({page})"] if page else [])]
    try:
        verdict, table = headline.result()
        return "\n".join([verdict, "", table, "", *links])
    except ValueError as error:
        return "\n".join([one_line(error), "", *links])
