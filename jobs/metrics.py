"""Metrics of a stage: a flat JSON file of finite numbers."""

from pathlib import Path

from shards.files import write_json


def write_metrics(path: str | Path, metrics: dict[str, float]) -> None:
    """Write a flat dictionary of numbers as JSON; anything but a finite number is our bug."""
    for name, value in metrics.items():
        assert isinstance(value, int | float) and value == value and abs(value) != float("inf"), (name, value)
    write_json(path, metrics)
