"""One thin job a file, run by DVC as `python -m stages.<name>`."""

import os

# A thread that waits spins for tens of microseconds, then sleeps; must stand before torch is loaded. libgomp's own patience,
# milliseconds, makes training thirty times slower as soon as anything else wants a core (15 against 185 images/s), and
# sleeping at once costs an eighth where nothing does.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
