"""Time and memory of mask cache, lookups and shuffling for many images: `python -m benchmarks.rows --rows 1e6 1e7 1e8`.

The real writer writes a mask cache of synthetic labels (14 x 14 patches, six parts and background); each step then runs in a
process of its own, so that the peak memory is that step's. Ids are random, as real ones are hashes. 100 million rows take
8.2 GB of disk in a temporary folder, which is removed at the end.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from config.arms import Arm
from images.stream import ShuffledOrder
from jobs.record import peak_mib
from shards.arrays import PAGE_ROWS
from shards.folders import is_intact, join_shards
from shards.mask_cache import MaskCache, MaskCacheWriter
from shards.seals import MANIFEST

GRID, PARTS = (14, 14), 6
HEADER = {
    "grid": list(GRID), "patch_size": 16, "num_parts": PARTS, "background": PARTS, "kind": "labels", "teacher": "",
    "part_learner": "",
}  # fmt: skip
ARM = Arm(mask="parts", parts="learned", schedule="intra_to_inter", gamma=2.0, background="part")
# Lookups as pretraining asks for them, and the batch and window of the paper's recipe.
BATCHES, BATCH, STEP, WINDOW = 1000, 1024, 4096, 8192
# Photographs of 110 kB in row groups of half a MiB.
GROUP = (4, 5)
# What the name of a time ends with that leaves out the waiting.
CPU = ", CPU"
Facts = dict[str, float]


def ids_of(numbers: np.ndarray) -> np.ndarray:
    """Ids (N,) uint64 of the images with these numbers: as random as hashes, none twice.

    Source: the finaliser of SplitMix64 (Steele et al., 2014), which is a bijection.
    """
    ids = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        ids = (ids ^ (ids >> np.uint64(shift))) * np.uint64(factor)
    return ids ^ (ids >> np.uint64(31))


def labels_of(ids: np.ndarray) -> np.ndarray:
    """Labels (N, 14, 14) uint8 of these images: they follow from the id, so that any lookup can be checked."""
    patterns = np.random.default_rng(0).integers(0, PARTS + 1, (1021, *GRID), dtype=np.uint8)
    return patterns[ids % np.uint64(len(patterns))]


def group_sizes(count: int) -> np.ndarray:
    """Rows of each row group of `count` images, (G,) int64."""
    sizes = np.random.default_rng(0).integers(GROUP[0], GROUP[1] + 1, count // GROUP[0] + 1)
    ends = np.cumsum(sizes)
    last = int(np.searchsorted(ends, count))
    sizes = sizes[: last + 1].copy()
    sizes[-1] -= ends[last] - count
    return sizes


def shuffled(count: int) -> tuple[np.ndarray, ShuffledOrder]:
    """Ids in rising order, which is how image shards number their rows, and the order of training over them."""
    ids = ids_of(np.arange(count))
    by_id = np.argsort(ids)
    storage = np.empty(count, np.int64)
    storage[by_id] = np.arange(count)
    return ids[by_id], ShuffledOrder(storage, group_sizes(count), window=WINDOW, key=(0, "order"))


def timed(name: str, work: Callable[[], object]) -> Facts:
    """Seconds of one call, and of them what the processor took: on a machine that does other things the latter says more."""
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return {name: time.perf_counter() - wall, f"{name}{CPU}": time.process_time() - busy}


def write(cache: Path, count: int) -> Facts:
    """The cache, from labels that are made on the way."""

    def work() -> None:
        with MaskCacheWriter(cache, header=HEADER) as writer:
            for start in range(0, count, PAGE_ROWS):
                ids = ids_of(np.arange(start, min(start + PAGE_ROWS, count)))
                writer.add(ids, labels_of(ids))

    facts = timed("write", work)
    files = [path.stat().st_size for path in cache.iterdir()]
    manifest = (cache / MANIFEST).stat().st_size
    return {**facts, "files": len(files), "bytes a row": sum(files) / count, "manifest bytes": manifest}


def intact(cache: Path, count: int) -> Facts:
    """Every byte of the cache against its hash."""

    def work() -> None:
        assert is_intact(cache)

    return timed("is_intact", work)


def join(cache: Path, count: int) -> Facts:
    """All shards into one folder, as `cache_masks` ends: hard links and a manifest."""
    with tempfile.TemporaryDirectory(dir=cache.parent) as name:
        return timed("join_shards", lambda: join_shards([cache], Path(name) / "joined"))


def opening(cache: Path, count: int) -> Facts:
    """Manifest and sizes of all files."""
    return timed("open", lambda: MaskCache(cache))


def index(cache: Path, count: int) -> Facts:
    """Ids of all shards, sorted: what the first lookup waits for."""
    opened, first = MaskCache(cache), ids_of(np.arange(1))
    return timed("index", lambda: opened.find(first))


def lookups(cache: Path, count: int) -> Facts:
    """A million rows in one call, drawn from everywhere; and as many in the order of the files."""
    opened = MaskCache(cache)
    draw = np.random.default_rng(1).integers(0, count, BATCHES * BATCH)
    random = ids_of(draw)
    opened.find(random[:1])
    first: list[np.ndarray] = []
    facts = timed("1M lookups in one call", lambda: first.append(opened.rows(random)))
    facts |= timed("1M lookups in one call, again", lambda: opened.rows(random))
    assert np.array_equal(first[0][::997], labels_of(random[::997]))
    starts = range(0, min(count, BATCHES * BATCH), BATCH)
    batches = [ids_of(np.arange(start, min(start + BATCH, count))) for start in starts]
    return facts | timed("1M lookups in the order of the files", lambda: [opened.rows(ids) for ids in batches])


def pretraining(cache: Path, count: int) -> Facts:
    """The masks of an arm, opened for all images, and a thousand batches in the order of training, twice over."""
    # Here, since the memory of the other steps is to be without torch.
    from training.masks import ArmMasks

    ids, order = shuffled(count)
    arms: list[ArmMasks] = []
    facts = timed("an arm opens", lambda: arms.append(ArmMasks(cache, ARM, ids=ids, ratio=0.75, hint_share=0.1)))
    rows = [order.rows(number * BATCH % (count - BATCH), BATCH) for number in range(BATCHES)]
    facts |= timed("1M lookups in the order of training", lambda: [arms[0].maps(batch) for batch in rows])
    facts |= timed("1M lookups in the order of training, again", lambda: [arms[0].maps(batch) for batch in rows])
    maps = arms[0].maps(rows[-1])
    assert maps is not None and np.array_equal(maps.numpy(), labels_of(ids[rows[-1]]))
    return facts


def shuffle(cache: Path, count: int) -> Facts:
    """A whole epoch of the order of training, in the paper's batches."""
    _, order = shuffled(count)
    seen = np.zeros(count, bool)
    facts = timed("first batch", lambda: order.rows(0, min(STEP, count)))

    def epoch() -> None:
        for start in range(0, count, STEP):
            seen[order.rows(start, min(STEP, count - start))] = True

    facts |= timed("an epoch", epoch)
    assert seen.all()
    return facts


STEPS: dict[str, Callable[[Path, int], Facts]] = {
    step.__name__: step for step in (write, intact, join, opening, index, lookups, pretraining, shuffle)
}


def measure(count: int, disk: str | None = None) -> dict[str, Facts]:
    """Step -> its facts in seconds, with its `peak` memory in MiB; prints them as each step, a process of its own, ends."""
    facts = {}
    with tempfile.TemporaryDirectory(dir=disk) as name:
        for step in STEPS:
            command = [sys.executable, "-m", "benchmarks.rows", "--step", step, "--cache", f"{name}/masks"]
            done = subprocess.run([*command, "--rows", str(count)], check=True, stdout=subprocess.PIPE, text=True)
            facts[step] = json.loads(done.stdout)
            for fact, value in facts[step].items():
                print(
                    f"{count:>13,} {step:12s}{'peak, MiB' if fact == 'peak' else fact:50s}{value:>14,.3f}", flush=True
                )
    return facts


def main() -> None:
    """Print every figure as a line, one number of rows after the other; with --step one step's facts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=lambda text: int(float(text)), nargs="+", default=[10**6, 10**7])
    parser.add_argument("--disk", help="folder for the cache; the default is the system's temporary folder")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step:
        facts = STEPS[chosen.step](chosen.cache, chosen.rows[0])
        print(json.dumps({**facts, "peak": peak_mib()}))
        return
    for count in chosen.rows:
        measure(count, chosen.disk)


if __name__ == "__main__":
    main()
