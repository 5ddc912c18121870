"""Runs of a local MLflow database that are not what a replay wrote, and texts that MLflow cannot read.

SQLite's own check finds a broken structure, and whatever is indexed, but not a value that became another: each run has the
digest of what was written (`pipeline.tracking.run_contents`), and it is taken again here. Runs without one are
older than digests.
"""

import contextlib
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.tracking.replay import client, fault_of, held, runs_of
from pipeline.tracking.run_contents import CONTENT_TAG, PARENT_TAG, PIPELINE_TAG, Content, Point, digest_of
from pipeline.tracking.stage_runs import SOURCE_TYPE

NAME_TAG = "mlflow.runName"
RUNNING = "RUNNING"
# By far the largest, and each of its columns is in an index, which SQLite checks it against.
INDEXED = "metrics"
# What the digests of runs are over; not `runs` itself, for one whose id became another lost all that said what it was.
VOUCHED = {"tags", "params", "metrics", "latest_metrics", "datasets", "inputs"}


@dataclass(frozen=True)
class Damaged:
    """A run of the pipeline, and the names of the runs under it, or of itself, that are not what was written.

    state: what `tracking.state_of` says of the state that it recorded, empty for a walk that did not end.
    """

    run_id: str
    state: str
    commit: str
    names: Sequence[str]


def damaged_runs(path: Path, *, remove: bool = False) -> list[Damaged]:
    """What is damaged in the database at `path`; remove: delete those runs of the pipeline, with all that is below them.

    Raises whatever MLflow raises where it cannot read the database.
    """
    with client() as found, _opened(path) as database:
        runs = {run.info.run_id: run for run in _every_run(found, database) if run.info.status != RUNNING}
        groups = {run_id: _pipelines_of(run) for run_id, run in runs.items()}
        vouched = {group for run_id, run in runs.items() if CONTENT_TAG in run.data.tags for group in groups[run_id]}
        damaged = [run_id for run_id, run in runs.items() if groups[run_id] & vouched and not _is_whole(run, database)]
        tops = {
            top: [run for run in damaged if top in _tops(run, groups)] for run in damaged for top in _tops(run, groups)
        }
        if remove:
            _restore_datasets(database, damaged)
            for run_id in {run for run in runs for top in tops if top in groups[run]} | tops.keys():
                found.delete_run(run_id)
        return [_told(runs[top], [runs[run] for run in below]) for top, below in tops.items()]


def _told(top: Any, below: Sequence[Any]) -> Damaged:
    tags = top.data.tags
    names = [run.data.tags.get(NAME_TAG) or run.info.run_id for run in below]
    return Damaged(top.info.run_id, tags.get(PIPELINE_TAG, ""), tags.get("git_commit", ""), names)


def _every_run(found: Any, database: sqlite3.Connection) -> Iterator[Any]:
    """The runs that MLflow shows, and those that it would if their experiment were there."""
    from mlflow.entities import ViewType

    there = [
        run_id for (run_id,) in database.execute("SELECT run_uuid FROM runs WHERE lifecycle_stage IS NOT 'deleted'")
    ]
    shown = set()
    for run in runs_of(found, [one.experiment_id for one in found.search_experiments(view_type=ViewType.ALL)]):
        shown.add(run.info.run_id)
        yield run
    for run_id in set(there) - shown:
        run = found.get_run(run_id)
        if run.info.lifecycle_stage != "deleted":
            yield run


def _pipelines_of(run: Any) -> set[str]:
    """The run of the pipeline that a run belongs to, as two of its tags say; where one is damaged the other is not."""
    tags = run.data.tags
    noted = {tags.get(CONTENT_TAG, "").partition(" ")[2], tags.get(PARENT_TAG, "")} - {""}
    return noted or {run.info.run_id}


def _tops(run_id: str, groups: Mapping[str, set[str]]) -> set[str]:
    """The runs of the pipeline, of those that are there, above a run; itself where there are none."""
    return groups[run_id] & groups.keys() or {run_id}


def _is_whole(run: Any, database: sqlite3.Connection) -> bool:
    """Whether a run is what was written. People rename one in two places at once, damage does in one."""
    points = _points(database, "metrics", run.info.run_id)
    last: dict[str, Point] = {}
    for point in points:
        if point.key not in last or _order(last[point.key]) < _order(point):
            last[point.key] = point
    if {repr(point) for point in last.values()} != set(map(repr, _points(database, "latest_metrics", run.info.run_id))):
        return False
    content = Content(run.data.params, points, [one.dataset for one in run.inputs.dataset_inputs])
    digest = digest_of(run, content, run.info.status, run.info.end_time)
    is_named = run.info.run_name == run.data.tags.get(NAME_TAG)
    return is_named and run.data.tags.get(CONTENT_TAG, "").partition(" ")[0] == digest


def _order(point: Point) -> tuple[int, int, float]:
    """By what MLflow tells the latest value of a metric; one that is not a number counts as 0."""
    return point.step, point.timestamp, point.value if point.value == point.value else 0.0


def _points(database: sqlite3.Connection, table: str, run_id: str) -> list[Point]:
    # MLflow gives the history of one metric at a time: a second for thirty runs, and there may be thousands.
    rows = database.execute(f"SELECT key, value, timestamp, step, is_nan FROM {table} WHERE run_uuid = ?", (run_id,))
    return [
        Point(key, float("nan") if is_nan else value, timestamp, step) for key, value, timestamp, step, is_nan in rows
    ]


def _restore_datasets(database: sqlite3.Connection, run_ids: Sequence[str]) -> None:
    """Put back what is not indexed of the data of runs: the next run that reads the same data gets the same row."""
    with database:
        for run_id in run_ids:
            database.execute(
                "UPDATE datasets SET dataset_source_type = ?, dataset_source = name, "
                "dataset_schema = NULL, dataset_profile = NULL "
                "WHERE dataset_uuid IN (SELECT source_id FROM inputs WHERE destination_type = 'RUN' AND destination_id = ?)",
                (SOURCE_TYPE, run_id),
            )


def broken_texts(path: Path, *, mend: bool = False) -> dict[str, int]:
    """Column -> how many of its texts are no UTF-8: one of them keeps MLflow from showing any run.

    mend: put a mark in place of what cannot be read, so that the rest can.
    """
    counts: Counter[str] = Counter()
    with held(), _opened(path) as database:
        database.text_factory = _text
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        for table in [name for (name,) in tables if name != INDEXED]:
            rows = database.execute(f'SELECT rowid, * FROM "{table}"')
            columns = [column for column, *_ in rows.description]
            broken = [
                (column, text, row[0])
                for row in rows
                for column, text in zip(columns, row, strict=True)
                if isinstance(text, _Broken)
            ]
            counts.update(f"{table}.{column}" for column, *_ in broken)
            if mend:
                with database:
                    for column, text, rowid in broken:
                        words = f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?'
                        database.execute(words, (text.decode(errors="replace"), rowid))
    return dict(counts)


def stale_indices(path: Path) -> list[str]:
    """The indices that do not agree with their tables, where nothing else is wrong, and digests vouch for these tables."""
    with _opened(path) as database:
        try:
            told = [message for (message,) in database.execute("PRAGMA integrity_check(1000)")]
        except (sqlite3.DatabaseError, UnicodeError):
            return []
        found = [re.search(r" index (\S+)$", message) for message in told]
        names = sorted({match[1] for match in found if match})
        tables = {
            table
            for name in names
            for (table,) in database.execute(
                "SELECT tbl_name FROM sqlite_master WHERE type = 'index' AND name = ?", (name,)
            )
        }
    return names if all(found) and tables <= VOUCHED else []


def rebuild_indices(path: Path) -> bool:
    """Make all indices again from their tables; whether the database is sound then."""
    with held(), _opened(path) as database:
        try:
            database.execute("REINDEX")
        except sqlite3.DatabaseError:
            return False  # Two rows that an index holds apart have become one.
    return not fault_of(path, whole=True)


class _Broken(bytes):
    """What is to be text and is none."""


def _text(data: bytes) -> str | _Broken:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _Broken(data)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        yield database
