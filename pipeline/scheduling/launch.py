"""Runs that Prefect shows: of the form, as a process of their own that a worker starts, and of the terminal.

Both walk as without Prefect. A worker gives up about a minute after it lost its server, and kills what it started: so a run
of the form leaves it at once, and looks by itself whether somebody has cancelled it.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from config.params import explain, load_params
from config.redaction import one_line
from jobs.stage import Terminated
from jobs.state import state_folder
from pipeline import experiments
from pipeline.checking import renew_listing
from pipeline.doctor.processes import RUN_VARIABLE
from pipeline.execution import CANCELLED, Outcome
from pipeline.parameters import added_arms, changed, is_as_here, tags
from pipeline.running import run_plainly, terminable
from pipeline.scheduling.delivery import RETRIES, USUAL_TEMPORARY, connect
from pipeline.scheduling.flow import AS_HERE, Experiment, semmae
from pipeline.scheduling.flow_run import ERROR, FlowRun
from pipeline.walk import Walk

# For the last word to the server after an interrupt.
INTERRUPTED_SECONDS = 2.0


def run_under_prefect(document: Any, *, name: str, preset: str, targets: Sequence[str], force: bool) -> int:
    """Walk as a flow run that the server shows, or without it where it does not answer; returns the exit code."""
    from prefect.states import Pending, Running

    what: dict[str, Any] = {"name": name, "preset": preset, "targets": targets, "force": force}
    try:
        with connect(retries=RETRIES) as client:
            title = name or preset or "run"
            run = client.create_flow_run(semmae, name=title, tags=tags(document, preset), state=Pending())
            client.set_flow_run_state(run.id, Running())
    except Exception as error:
        print(f"warning: Prefect does not show this run: {one_line(error)}", file=sys.stderr)
        return int(not all(outcome.is_done for outcome in run_plainly(document, **what)))
    # By it the processes of its stages are known for a living run's.
    os.environ[RUN_VARIABLE] = str(run.id)
    flow_run = FlowRun(str(run.id))
    return _until_it_ends(flow_run, lambda: run_plainly(document, **what, flow_run=flow_run))


def _until_it_ends(flow_run: FlowRun, walk: Callable[[], Sequence[Outcome]]) -> int:
    """Exit code of a walk, whose end the server then shows."""
    from prefect.states import Cancelled, Completed, Crashed, Failed

    try:
        with terminable():
            outcomes = walk()
    except ValueError as error:
        flow_run.say(one_line(error), level=ERROR)
        flow_run.close(Failed(message=one_line(error)))
        raise
    except (KeyboardInterrupt, Terminated):
        flow_run.close(Cancelled(), seconds=INTERRUPTED_SECONDS)
        raise
    except BaseException as error:
        flow_run.close(Crashed(message=one_line(error)))
        raise
    left = [outcome for outcome in outcomes if not outcome.is_done]
    if not left:
        flow_run.close(Completed())
        return 0
    state = Cancelled if any(outcome.status == CANCELLED for outcome in left) else Failed
    flow_run.close(state(message=f"{len(left)} of {len(outcomes)} stages are not done, {left[0].stage} first"))
    return 1


def walk_form(form: Experiment, flow_run: FlowRun) -> Sequence[Outcome]:
    """Walk what a form asks for, or show what would run. Raises a one-line ValueError for parameters that do not go."""
    preset = "" if form.preset == AS_HERE else form.preset
    document, origin = changed(preset=preset, arms=form.arms, seeds=form.seeds, changes=form.changes())
    chosen = tags(document, origin)
    flow_run.ask(lambda client: client.update_flow_run(UUID(flow_run.id), tags=chosen))
    if added := added_arms(document, form.arms):
        flow_run.say(added)
    renew_listing(load_params().data)
    if not form.dry_run:
        return run_plainly(
            document, name=form.name, preset=origin, targets=form.targets, force=form.force, flow_run=flow_run
        )
    as_here = not form.name and is_as_here(document)
    with contextlib.nullcontext(Path.cwd()) if as_here else experiments.draft(document, preset=origin) as root:
        stages = Walk(root, targets=form.targets, force=form.force).stages
    flow_run.add_markdown("would-run", "\n".join(f"- {stage}" for stage in stages) or "nothing")
    return []


def main() -> None:
    """What a worker runs: leave it, and walk the form of the flow run that it names."""
    from prefect.states import Cancelled, Running

    if os.fork():
        # Not through Python's end: what is open belongs to the child.
        os._exit(0)
    os.setsid()
    if usual := os.environ.get(USUAL_TEMPORARY):
        os.environ["TMPDIR"] = usual
    elif usual is not None:
        del os.environ["TMPDIR"]
    log = state_folder() / "services" / "runs.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    with connect(retries=RETRIES) as client:
        run = client.read_flow_run(UUID(os.environ[RUN_VARIABLE]))
        if run.state.is_cancelling():
            client.set_flow_run_state(run.id, Cancelled())
            return
        client.set_flow_run_state(run.id, Running())
    flow_run = FlowRun(str(run.id))

    def walk() -> Sequence[Outcome]:
        try:
            form = Experiment.model_validate(run.parameters["form"])
        except ValidationError as error:
            raise ValueError(f"parameters: {explain(error)}") from None
        return walk_form(form, flow_run)

    try:
        code = _until_it_ends(flow_run, walk)
    except ValueError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = 1
    raise SystemExit(code)


if __name__ == "__main__":
    main()
