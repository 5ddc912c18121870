"""Two revisions side by side on a terminal."""

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.revisions import Change, changes, read_revision, shown_metrics


def print_changes(before: str, after: str, console: Console | None = None) -> None:
    """Print a table each of the parameters, inputs and results that differ, or that none does."""
    console = console or Console()
    one, other = read_revision(before), read_revision(after)
    for title, found in (
        ("parameters", changes(one.params, other.params)),
        ("data and code", changes(_short(one.inputs), _short(other.inputs))),
        ("results", changes(shown_metrics(one.metrics), shown_metrics(other.metrics))),
    ):
        if found:
            console.print(_table(title, found, before, after))
        else:
            console.print(f"{title}: the same in {before} and {after}")


def _short(hashes: dict[str, str]) -> dict[str, str]:
    return {name: value[:12] for name, value in hashes.items()}


def _table(title: str, found: list[Change], before: str, after: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    table.add_column("name", overflow="fold")
    for name in (before, after, "change"):
        table.add_column(name, justify="right", overflow="fold")
    for change in found:
        table.add_row(change.name, *map(_told, (change.before, change.after)), _difference(change))
    return table


def _told(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _difference(change: Change) -> str:
    numbers = all(isinstance(value, int | float) for value in (change.before, change.after))
    return f"{change.after - change.before:+.4g}".replace("-", "−") if numbers else ""
