"""MLflow keeps absolute locations of artifacts; those in the local database follow a repository that was moved or copied."""

import contextlib
import sqlite3
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Where artifacts are below a repository. The columns in which MLflow keeps locations, also of models.
FOLDER = "/tracking/artifacts"
COLUMNS = ("artifact_location", "artifact_uri", "source", "storage_location")


def follow_repository(database: Path, experiment: str, location: str) -> None:
    """Where `experiment` has another artifact location, let all that lead into that repository lead into this one.

    location: the address of the folder REPOSITORY/tracking/artifacts that the experiment should have. Prints a line where it
    had another. All or nothing of the database is changed.
    """
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return
        known = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)).fetchone()
        if not known or known[0] == location or not known[0].startswith("file:///") or not known[0].endswith(FOLDER):
            return  # it is right, or somebody else's choice
        before, now = (Path(unquote(urlsplit(address).path)).parents[1] for address in (known[0], location))
        places = connection.execute(
            "SELECT tables.name, columns.name FROM sqlite_master tables, pragma_table_info(tables.name) columns "
            f"WHERE tables.type = 'table' AND columns.name IN {COLUMNS}"
        ).fetchall()
        for table, column in places:
            for old, new in ((f"{before}/", f"{now}/"), (f"{before.as_uri()}/", f"{now.as_uri()}/")):
                change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                connection.execute(change, (new, len(old) + 1, len(old), old))
    print(f"{database}: this repository was at {before}; MLflow now looks for artifacts in {now}", file=sys.stderr)
