"""One stage by DVC, as a process of its own: `python reproducing.py STAGE [--force]`.

Differs from `dvc repro --single-item`: that says only in prose what it did and why it gave up. Through DVC's API the exit
code says whether the stage ran, and the lock of another DVC is an exception.
"""

import logging
import random
import sys
import time
from typing import Any

# Exit codes; every other one is a failure.
RAN, RESTORED, UNCHANGED = 0, 80, 81
FAILED = 255
# If another DVC runs the same stage for longer than all tries, this one fails and names the other process.
ATTEMPTS = 30
WAIT_SECONDS = (0.2, 2.0)


def reproduce(stage: str, *, force: bool) -> int:
    """Run `stage` in the current folder where it changed, and nothing upstream of it; returns the exit code.

    DVC waits for its own lock, but not for `.dvc/tmp/rwlock`, where stages that start at once meet: those tries are
    repeated. Raises DvcException.
    """
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.stage.cache import RunCacheNotFoundError, StageCache

    has_run, attempt = force, 0

    class Cache(StageCache):
        def restore(self, *words: Any, **options: Any) -> None:
            nonlocal has_run
            try:
                super().restore(*words, **options)
            except RunCacheNotFoundError:
                # The command is what DVC turns to next.
                has_run = True
                raise

    while True:
        attempt += 1
        try:
            with Repo(_wait_for_lock=True) as repo:
                repo.stage_cache = Cache(repo)
                # No advice about git after every stage.
                repo.scm_context.quiet = True
                # After a try that ran and then met a lock, DVC finds the result in its cache.
                is_new = bool(repo.reproduce(stage, single_item=True, force=force))
                return RAN if has_run else RESTORED if is_new else UNCHANGED
        except Exception as error:
            lock = _cause(error, LockError)
            if lock is None or attempt == ATTEMPTS:
                raise
            print(f"waits for another DVC: {' '.join(str(lock).split())}", flush=True)
            time.sleep(random.uniform(*WAIT_SECONDS))


def _cause(error: BaseException | None, kind: type[Exception]) -> BaseException | None:
    """The first error of this kind among an error and its causes."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error


if __name__ == "__main__":
    from dvc.exceptions import DvcException

    try:
        code = reproduce(sys.argv[1], force="--force" in sys.argv[2:])
    except DvcException:
        # DVC's own handler prints the error with its causes.
        logging.getLogger("dvc").exception("")
        code = FAILED
    raise SystemExit(code)
