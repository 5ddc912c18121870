"""Git as this project calls it: without hooks, in English, in the repository of a folder and no other."""

import os
import subprocess
from pathlib import Path

from config.redaction import one_line

# A hook of git that calls us leaves it in the environment: whoever reads it works in that hook's repository.
ANOTHER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")


def git(*words: str, folder: str | Path = ".") -> str:
    """The output of a git command in `folder`; ValueError of one line if it fails.

    Hooks are the user's, for his own commits: `dvc install` has git check out all outs in every new worktree.
    """
    command = ["git", "-c", "core.hooksPath=/dev/null", "-C", str(folder), *words]
    environment = {name: value for name, value in os.environ.items() if name not in ANOTHER}
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**environment, "LC_ALL": "C"}
        )
    except FileNotFoundError:
        raise ValueError("git: no such program; install git") from None
    if answer.returncode:
        raise ValueError(f"git {words[0]}: {one_line(answer.stderr) or answer.returncode}")
    return answer.stdout.strip()


def identity(who: str, folder: str | Path = ".") -> str:
    """Whom git knows as AUTHOR or COMMITTER of a commit in `folder`; ValueError if nobody."""
    return git("-c", "user.useConfigOnly=true", "var", f"GIT_{who}_IDENT", folder=folder)


def author(folder: Path) -> dict[str, str]:
    """The environment in which a commit in `folder` has an author: the user, and where git knows none the tool."""
    names: dict[str, str] = {}
    for who in ("AUTHOR", "COMMITTER"):
        try:
            identity(who, folder)
        except ValueError:
            names |= {f"GIT_{who}_NAME": "semmae", f"GIT_{who}_EMAIL": "semmae@localhost"}
    return names
