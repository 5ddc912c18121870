"""Part quality against true part labels, beside what trivial methods reach on the same patches."""

import numpy as np
import torch
from sklearn.cluster import KMeans

from images.dataset import DecodedImages, decoded_masks
from parts.attention import extract_all
from parts.labelling import majority_labels
from parts.quality import colour_information, part_quality, position_information
from pipeline.image_shards import ImageShards
from pipeline.params import load_params, load_runtime
from pipeline.shards import ArrayShards, MaskCache
from pipeline.stage import run, write_metrics
from training.compute import set_up
from training.teacher import FrozenTeacher

# Pixels a side of a patch from which its true label and mean colour are taken.
CELL = 8
# Patches that a clustering is fitted on.
SAMPLE = 20_000


def main() -> None:
    """`python -m stages.evaluate_parts`."""
    params, runtime = load_params(), load_runtime()
    compute = set_up(**params.compute.model_dump())
    teacher = FrozenTeacher("teacher", compute.device)
    learned, raw = MaskCache("masks/learned"), MaskCache("masks/raw")
    parts, grid = learned.header["num_parts"], tuple(learned.header["grid"])
    patches = {split: Patches(split, params.quality.images, teacher, runtime=runtime) for split in ("train", "test")}
    test = patches["test"]
    random = np.random.default_rng(params.quality.seed)
    methods = {
        "learned": (learned.rows(test.ids), parts, learned.header["background"]),
        "raw": (raw.rows(test.ids), raw.header["num_parts"], None),
        "random": (random.integers(0, parts, (len(test.ids), *grid)).astype(np.uint8), parts, None),
    }
    for name in ("positions", "colours", "tokens"):
        found = cluster(getattr(patches["train"], name), getattr(test, name), parts, seed=params.quality.seed)
        label = {"positions": "xy", "colours": "colour", "tokens": "kmeans"}[name]
        methods[label] = (found.reshape(-1, *grid), parts, None)
    metrics: dict[str, float] = {"images": len(test.ids)}
    for name, (labels, count, background) in methods.items():
        quality = part_quality(labels, test.truth, num_parts=count, background=background)
        quality["position_information"] = position_information(labels)
        quality["colour_information"] = colour_information(labels, test.colours.reshape(*labels.shape, 3))
        metrics |= {f"{name}/{measure}": value for measure, value in quality.items()}
    write_metrics("metrics/evaluate_parts.json", metrics)


class Patches:
    """The patches of the images of a split that have part labels, N images of L patches.

    ids (N,); truth (N, gh, gw); positions (N, L, 2), colours (N, L, 3) and tokens (N, L, D) describe each patch.
    """

    def __init__(self, split: str, limit: int, teacher: FrozenTeacher, *, runtime) -> None:
        shards = ImageShards("data/shards", split)
        rows = np.array([row for row in range(len(shards)) if shards.mask_bytes(row) is not None][:limit])
        if not len(rows):
            raise ValueError(f"data/shards: no image of {split} has part labels; set data.part_truth to []")
        self.ids = shards.ids[rows]
        side = max(teacher.grid) * CELL
        # A square of cells of each grid side: true labels and colours of a patch come from whole cells.
        height, width = teacher.grid
        assert height == width, "whole images are decoded to squares"
        self.truth = majority_labels(decoded_masks(shards, rows, side), teacher.grid)
        pixels = DecodedImages(shards, side, workers=runtime.workers, ram_gib=runtime.ram_gib).pixels[rows]
        cells = pixels.reshape(len(rows), 3, height, CELL, width, CELL).mean(axis=(3, 5)) / 255
        self.colours = cells.transpose(0, 2, 3, 1).reshape(len(rows), -1, 3).astype(np.float32)
        places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1).reshape(-1, 2)
        self.positions = np.broadcast_to(places.astype(np.float32), (len(rows), *places.shape))
        self.tokens = self._tokens(shards, rows, teacher)

    @staticmethod
    def _tokens(shards: ImageShards, rows: np.ndarray, teacher: FrozenTeacher) -> np.ndarray:
        layer = ArrayShards("attention/all").header["token_layer"]
        images = DecodedImages(shards, teacher.image_size[0], workers=2, ram_gib=64).pixels[rows]
        found = []
        for start in range(0, len(rows), 128):
            batch = teacher.normalise(torch.from_numpy(images[start : start + 128]).float() / 255)
            found.append(extract_all(teacher.vit, batch, token_layer=layer).patch_tokens.cpu().numpy())
        return np.concatenate(found)


def cluster(train: np.ndarray, test: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Labels (N * L,) of test points (N, L, D) by k-means fitted on a sample of train points (M, L, D)."""
    points = train.reshape(-1, train.shape[2])
    chosen = np.random.default_rng(seed).permutation(len(points))[:SAMPLE]
    model = KMeans(count, n_init=3, random_state=seed).fit(points[chosen])
    return model.predict(test.reshape(-1, test.shape[2])).astype(np.uint8)


if __name__ == "__main__":
    run(main)
