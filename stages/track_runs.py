"""Replay every stage's parameters, metrics, history and figures into MLflow, and write what the stages cost."""

from pathlib import Path

from jobs.stage import run
from pipeline.tracking.replay import replay, tracking_uri
from reports.costs import write_costs


def main() -> None:
    """`python -m stages.track_runs`."""
    print(f"{len(replay().runs)} stages recorded in {tracking_uri()}")
    write_costs(Path("report"))


if __name__ == "__main__":
    run(main)
