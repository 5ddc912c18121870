"""Digest the code that determines each stage's result: `code/STAGE.json`, on which the stages depend instead of on files.

DVC follows no imports and would rerun a stage for a changed comment. Here a stage's dependency changes when, and only when,
code that determines its result does.
"""

from pathlib import Path

from jobs.code import code_digests
from jobs.stage import run
from shards.files import whole_folder, write_json


def main() -> None:
    """`python -m stages.digest_code`."""
    names = sorted(path.stem for path in Path("stages").glob("[!_]*.py"))
    with whole_folder("code") as folder:
        for name in names:
            write_json(folder / f"{name}.json", code_digests(f"stages.{name}"))


if __name__ == "__main__":
    run(main)
