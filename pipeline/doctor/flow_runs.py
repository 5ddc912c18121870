"""Flow runs that Prefect shows as running and whose process is gone; only where the address of a server is known."""

from collections.abc import Iterator

from pipeline.doctor.trees import trees
from pipeline.scheduling import flow_runs
from pipeline.scheduling.services import api_url


def dead_flow_runs(*, repair: bool) -> Iterator[str]:
    """Flow runs of this machine without a process."""
    if not api_url():
        return
    with flow_runs.client() as client:
        for run in flow_runs.dead_runs(client, trees()):
            done = f"set to {flow_runs.end(client, run)}" if repair else "repair ends it"
            yield f"{api_url()}: flow run {run.name} ({run.id}) says {run.state.name} and its process is gone; {done}"
