"""Part quality against true part labels, beside trivial methods on the same patches."""

from collections.abc import Callable
from functools import partial

import numpy as np

from config.params import load_params, load_runtime
from images.dataset import decoded_masks, labelled_rows
from images.decoding import decode_square
from jobs.metrics import write_metrics
from jobs.progress import Meter, progress
from jobs.stage import run
from parts.attention import extract_all
from parts.baselines import cluster_labels, random_labels
from parts.labelling import CELL, majority_labels
from parts.quality import colour_information, part_quality, position_information
from shards.arrays import ArrayShards
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache
from shards.mask_shards import MaskShards
from training.compute import set_up
from training.teacher import FrozenTeacher

# Training patches that the clusterings are fitted on.
SAMPLE = 20_000
# Images in memory at a time.
BATCH = 128


def main() -> None:
    """`python -m stages.evaluate_parts`."""
    params, runtime = load_params(), load_runtime()
    seed = params.quality.seed
    compute = set_up(**params.compute.model_dump())
    teacher = FrozenTeacher("teacher", compute.device)
    train, test = (ImageShards("data/shards", split) for split in ("train", "test"))
    masks = MaskShards("data/masks", "test")
    stored, learned, raw = ArrayShards("attention/tokens"), MaskCache("masks/learned"), MaskCache("masks/raw")
    grid, parts = teacher.grid, learned.header["num_parts"]

    # Ids are hashes, so that the first are as good as drawn.
    rows = labelled_rows(test, masks)[: params.quality.images]
    if not len(rows):
        raise ValueError("data/masks: no image of test has part labels; set data.part_truth to []")
    ids = test.ids[rows]
    gather = partial(gathered, seconds=runtime.log_seconds)
    truth = gather(
        lambda some: majority_labels(decoded_masks(masks, test, some, max(grid) * CELL), grid), rows, "true parts"
    )
    colours = gather(lambda some: patch_colours(test, some, grid), rows, "colours")
    fitted = rows_with_ids(train, stored.ids)[: max(1, SAMPLE // truth[0].size)]
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1).astype(np.float32)

    layer = stored.header["token_layer"]
    tokens = gather(lambda some: patch_tokens(test, some, teacher, layer=layer), rows, "tokens")
    known = stored.rows(train.ids[fitted], "tokens").reshape(-1, *grid, tokens.shape[-1]).astype(np.float32)
    clustered = {
        "xy": (places[None], np.broadcast_to(places, (len(rows), *places.shape))),
        "colour": (patch_colours(train, fitted, grid), colours),
        "kmeans": (known, tokens),
    }
    shown = partial(progress, seconds=runtime.log_seconds)
    methods = {
        name: (cluster_labels(*pair, parts, seed=seed), parts, None)
        for name, pair in shown(clustered.items(), total=len(clustered), label="evaluate_parts", unit="clusterings")
    }
    methods["random"] = (random_labels(truth.shape, parts, seed=seed), parts, None)
    methods["raw"] = (raw.rows(ids), raw.header["num_parts"], None)
    methods["learned"] = (learned.rows(ids), parts, learned.header["background"])
    metrics: dict[str, float] = {"images": len(rows)}
    judged = shown(methods.items(), total=len(methods), label="evaluate_parts", unit="methods")
    for name, (labels, count, background) in judged:
        quality = part_quality(labels, truth, num_parts=count, background=background)
        quality["position_information"] = position_information(labels)
        quality["colour_information"] = colour_information(labels, colours)
        metrics |= {f"{name}/{measure}": value for measure, value in quality.items()}
    write_metrics("metrics/evaluate_parts.json", metrics)


def gathered(
    function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, label: str, *, seconds: float
) -> np.ndarray:
    """`function` of batches of rows (n,), (n, ...), put together: (N, ...). Shows the progress."""
    batches = []
    with Meter(len(rows), label=f"evaluate_parts: {label}", seconds=seconds) as meter:
        for start in range(0, len(rows), BATCH):
            batches.append(function(rows[start : start + BATCH]))
            meter.advance(len(batches[-1]))
    return np.concatenate(batches)


def rows_with_ids(shards: ImageShards, ids: np.ndarray) -> np.ndarray:
    """Rows (n,) of the images whose id is among `ids`."""
    return np.flatnonzero(np.isin(shards.ids, ids))


def patch_colours(shards: ImageShards, rows: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Mean RGB in [0, 1] of every patch: (n, gh, gw, 3) float32."""
    side, (height, width) = max(grid) * CELL, grid
    pixels = np.stack([decode_square(shards.bytes(row), side) for row in rows])
    cells = pixels.reshape(len(rows), height, side // height, width, side // width, 3)
    return (cells.mean(axis=(2, 4)) / 255).astype(np.float32)


def patch_tokens(shards: ImageShards, rows: np.ndarray, teacher: FrozenTeacher, *, layer: int) -> np.ndarray:
    """The teacher's tokens of the patches of `rows`, one batch: (n, gh, gw, D) float32."""
    images = teacher.inputs([shards.bytes(row) for row in rows])
    tokens = extract_all(teacher.vit, images, token_layer=layer).patch_tokens.cpu().numpy()
    return tokens.reshape(len(tokens), *teacher.grid, -1)


if __name__ == "__main__":
    run(main)
