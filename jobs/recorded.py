"""Compare results with the digests that were recorded when they were written.

Metrics, histories and predictions are in formats of others and hold no digest of their own. dvc.lock has the MD5 of each, and
the note of a stage (`jobs.record`) that of one written by hand since. A file that is neither was changed by something else, a
failing disk for example, and DVC does not notice that while time and size stay the same.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from jobs.dvc_lock import digests_of, stage_entries
from jobs.record import NOTES
from shards.files import md5_of
from shards.seals import mend


def check_recorded(*places: str | Path, root: Path = Path()) -> None:
    """ValueError when a file of `places` below `root`, files or folders, differs from the one that was recorded.

    A file without a recorded digest passes.
    """
    recorded: dict[str, str] = {}
    for entry in stage_entries(root / "dvc.lock").values():
        recorded |= digests_of(entry)
    for path in _files(places, root):
        check_digest(path, path.relative_to(root).as_posix(), recorded, root)


def check_digest(path: Path, name: str, recorded: Mapping[str, str], root: Path = Path()) -> None:
    """The same for one file, whose name in `recorded` is `name`."""
    note = root / NOTES / name
    known = {recorded.get(name, ""), note.read_text(encoding="utf-8").strip() if note.is_file() else ""} - {""}
    if known and (actual := md5_of(path)) not in known:
        raise ValueError(
            f"{path}: damaged, or changed by hand: its md5 is {actual}, {' or '.join(sorted(known))} was recorded; "
            f"{mend(path)}, or accept it with `dvc commit`"
        )


def _files(places: tuple[str | Path, ...], root: Path) -> Iterator[Path]:
    for place in places:
        path = root / place
        yield from sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
