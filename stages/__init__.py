"""One thin job a file, run by DVC as `python -m stages.<name>`."""

import os
import signal
import sys

from jobs.supervision import SUPERVISOR, identity

# A thread that waits spins for tens of microseconds, then sleeps; must stand before torch is loaded. libgomp's own patience,
# milliseconds, makes training thirty times slower as soon as anything else wants a core (15 against 185 images/s), and
# sleeping at once costs an eighth where nothing does.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# While Python loads the module of a stage it calls itself so.
if sys.argv[0] == "-m":
    # A stage that loads has nothing to save: Ctrl-C ends it at once and without a traceback, until `jobs.stage.run` has it save.
    # In the background of a shell it is ignored, as by any command.
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # A stage that DVC alone runs ends, saved, when that DVC is gone; a walk has named itself already.
    if "DVC_STAGE" in os.environ:
        os.environ.setdefault(SUPERVISOR, identity(os.getppid()))
