"""Part quality against true part labels, beside trivial methods on the same patches."""

import numpy as np

from config.params import load_params
from images.dataset import decoded_masks
from images.decoding import decode_square
from jobs.metrics import write_metrics
from jobs.stage import run
from parts.attention import extract_all
from parts.baselines import cluster_labels, random_labels
from parts.labelling import majority_labels
from parts.quality import colour_information, part_quality, position_information
from shards.arrays import ArrayShards
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache
from training.compute import set_up
from training.teacher import FrozenTeacher

# Side in pixels at which a patch's true label and mean colour are computed.
CELL = 8
# Training patches that the clusterings are fitted on.
SAMPLE = 20_000
# Images in memory at a time.
BATCH = 128


def main() -> None:
    """`python -m stages.evaluate_parts`."""
    params = load_params()
    seed = params.quality.seed
    compute = set_up(**params.compute.model_dump())
    teacher = FrozenTeacher("teacher", compute.device)
    train, test = (ImageShards("data/shards", split) for split in ("train", "test"))
    stored, learned, raw = ArrayShards("attention/tokens"), MaskCache("masks/learned"), MaskCache("masks/raw")
    grid, parts = teacher.grid, learned.header["num_parts"]

    rows = rows_with_truth(test, params.quality.images)
    ids = test.ids[rows]
    truth = majority_labels(decoded_masks(test, rows, max(grid) * CELL), grid)
    colours = patch_colours(test, rows, grid)
    fitted = rows_with_ids(train, stored.ids)[: max(1, SAMPLE // truth[0].size)]
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1).astype(np.float32)

    tokens = patch_tokens(test, rows, teacher, layer=stored.header["token_layer"])
    known = stored.rows(train.ids[fitted], "tokens").reshape(-1, *grid, tokens.shape[-1]).astype(np.float32)
    clustered = {
        "xy": (places[None], np.broadcast_to(places, (len(rows), *places.shape))),
        "colour": (patch_colours(train, fitted, grid), colours),
        "kmeans": (known, tokens),
    }
    methods = {name: (cluster_labels(*pair, parts, seed=seed), parts, None) for name, pair in clustered.items()}
    methods["random"] = (random_labels(truth.shape, parts, seed=seed), parts, None)
    methods["raw"] = (raw.rows(ids), raw.header["num_parts"], None)
    methods["learned"] = (learned.rows(ids), parts, learned.header["background"])
    metrics: dict[str, float] = {"images": len(rows)}
    for name, (labels, count, background) in methods.items():
        quality = part_quality(labels, truth, num_parts=count, background=background)
        quality["position_information"] = position_information(labels)
        quality["colour_information"] = colour_information(labels, colours)
        metrics |= {f"{name}/{measure}": value for measure, value in quality.items()}
    write_metrics("metrics/evaluate_parts.json", metrics)


def rows_with_truth(shards: ImageShards, limit: int) -> np.ndarray:
    """The first rows (n,), at most `limit`, that have part labels; ids are hashes, so the first are any."""
    rows = [row for row in range(len(shards)) if shards.mask_bytes(row) is not None]
    if not rows:
        raise ValueError(f"{shards.folder}: no image of {shards.split} has part labels; set data.part_truth to []")
    return np.array(rows[:limit])


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
    """The teacher's tokens of the patches of `rows`: (n, gh, gw, D) float32."""
    batches = []
    for start in range(0, len(rows), BATCH):
        images = teacher.inputs([shards.bytes(row) for row in rows[start : start + BATCH]])
        batches.append(extract_all(teacher.vit, images, token_layer=layer).patch_tokens.cpu().numpy())
    tokens = np.concatenate(batches)
    return tokens.reshape(len(tokens), *teacher.grid, -1)


if __name__ == "__main__":
    run(main)
