"""Frozen features of one arm and seed, computed once: kNN, linear probe, few labels, and parts of the image removed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from config.names import arguments
from config.params import load_params, load_runtime
from evaluation.linear import LinearProbe
from evaluation.predictions import NO_PREDICTION, Predictions, write_predictions
from evaluation.probing import features_of_splits, metrics_of, occluded, occlusions, probe
from images.augmentation import crop_labels, whole_images
from images.dataset import WholeImages
from jobs.metrics import write_metrics
from jobs.progress import Meter
from jobs.stage import run
from models.vit import VisionTransformer
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache
from training.compute import set_up
from training.encoders import features, load_encoder
from training.randomness import generator


def main() -> None:
    """`python -m stages.probe ARM SEED`."""
    params, runtime = load_params(), load_runtime()
    arm, seed = arguments("ARM", "SEED")
    job = f"{arm}-{seed}"
    compute = set_up(**params.compute.model_dump())
    encoder = load_encoder(Path("pretrained") / job).to(compute.device)
    size = params.probe.batch_size
    frozen = features_of_splits("data/shards", encoder, batch_size=size, runtime=runtime, label=f"probe {job}")
    predictions, linear = probe(
        frozen, params.probe, seed=seed, device=compute.device, runtime=runtime, label=f"probe {job}"
    )
    shards = ImageShards("data/shards", "test", labelled=True)
    test = WholeImages(shards, encoder.image_size[0], workers=runtime.workers)
    with Meter(len(test), label=f"probe {job}: occlusion", seconds=runtime.log_seconds) as meter:
        removed = without_patches(encoder, linear, test, batch_size=size, seed=seed, advance=meter.advance)
    predictions = Predictions(predictions.ids, predictions.labels, {**predictions.classes, **removed})
    write_predictions(Path("metrics/predictions/probe") / f"{job}.parquet", predictions)
    write_metrics(f"metrics/probe/{job}.json", {**metrics_of(predictions), "penalty": linear.penalty})


def without_patches(
    encoder: VisionTransformer,
    linear: LinearProbe,
    test: WholeImages,
    *,
    batch_size: int,
    seed: int,
    advance: Callable[[int], object],
) -> dict[str, np.ndarray]:
    """The linear probe's classes of the test images without one learned part, and without as many random patches.

    The removed part and patches are the same for every arm of a seed. advance: called with the number of images of each batch
    that is done.
    """
    cache = MaskCache("masks/learned")
    maps = torch.from_numpy(cache.rows(test.shards.ids))
    parts = crop_labels(maps, *whole_images(len(maps)), encoder.grid).flatten(1)
    masks = occlusions(parts, num_parts=cache.header["num_parts"], draw=generator(seed, "occlusion"))
    classes = {
        name: np.full(len(maps), NO_PREDICTION) for name in ("occluded_part_accuracy", "occluded_random_accuracy")
    }
    for rows, pixels in test.batches(batch_size):
        for predicted, gone in zip(classes.values(), masks, strict=True):
            predicted[rows] = occluded(linear, gone[torch.from_numpy(rows)], partial(features, encoder), pixels)
        advance(len(rows))
    return classes


if __name__ == "__main__":
    run(main)
