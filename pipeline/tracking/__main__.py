"""The stage `track_runs`, `python -m pipeline.tracking`: replay what DVC has recorded into MLflow."""

from config.redaction import redacted
from jobs.stage import run
from pipeline.tracking.client import tracking_uri
from pipeline.tracking.replay import replay


def main() -> None:
    """Replay every stage of dvc.lock that MLflow does not have yet."""
    if (written := replay()).pipeline:
        print(f"{len(written.runs)} stages recorded in {redacted(tracking_uri())}")


if __name__ == "__main__":
    run(main)
