"""Replay every stage's parameters, metrics, history and figures into MLflow."""

from pipeline.stage import run
from pipeline.tracking import replay, tracking_uri


def main() -> None:
    """`python -m stages.track_runs`."""
    print(f"{replay()} runs recorded in {tracking_uri()}")


if __name__ == "__main__":
    run(main)
