"""Results as they were recorded: metrics, histories and predictions are in formats of others, and hold no digest.

dvc.lock has the MD5 of each, and for a stage that was run by hand its note (`jobs.stage`). What is neither was changed
by something else, a failing disk for example, and DVC does not see that where time and size are as they were.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from jobs.dvc_lock import digests_of, stage_entries
from jobs.record import NOTES
from shards.files import md5_of
from shards.seals import mend


def check_recorded(*places: str | Path, root: Path = Path()) -> None:
    """ValueError when a file of `places` below `root`, files or folders, is not the one that was recorded.

    What nothing is recorded of passes.
    """
    recorded: dict[str, str] = {}
    for entry in stage_entries(root / "dvc.lock").values():
        recorded |= digests_of(entry)
    for path in _files(places, root):
        check_digest(path, path.relative_to(root).as_posix(), recorded, root)


def check_digest(path: Path, name: str, recorded: Mapping[str, str], root: Path = Path()) -> None:
    """The same for one file, which `recorded` calls `name`."""
    note = root / NOTES / name
    known = {recorded.get(name, ""), note.read_text(encoding="utf-8").strip() if note.is_file() else ""} - {""}
    if known and (found := md5_of(path)) not in known:
        raise ValueError(
            f"{path}: damaged, or changed by hand: its md5 is {found}, {' or '.join(sorted(known))} was recorded; "
            f"{mend(path)}, or accept it with `dvc commit`"
        )


def _files(places: tuple[str | Path, ...], root: Path) -> Iterator[Path]:
    for place in places:
        path = root / place
        yield from sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
