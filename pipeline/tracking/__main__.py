"""`python -m pipeline.tracking`: the stage `track_runs`, which replays what DVC recorded into MLflow."""

from config.redaction import redacted
from jobs.stage import run
from pipeline.tracking.replay import replay, tracking_uri


def main() -> None:
    """Record every stage of dvc.lock that MLflow does not have yet."""
    print(f"{len(replay().runs)} stages recorded in {redacted(tracking_uri())}")


if __name__ == "__main__":
    run(main)
