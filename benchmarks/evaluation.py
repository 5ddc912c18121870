"""What it saves to compute an encoder's features once for all protocols on frozen features.

`python -m benchmarks.evaluation [JOB]` in a folder where `dvc repro` has run: times the protocols of one job, each with
features of its own, as separate jobs would compute them, and all with the same. Prints a table.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from config.params import load_params, load_runtime
from evaluation.knn import knn_predict
from evaluation.linear import few_of_each, fit_linear_probe
from evaluation.probing import Features, features_of_splits
from images.dataset import WholeImages
from shards.image_shards import ImageShards
from stages.probe import without_patches
from training.compute import set_up
from training.encoders import load_encoder
from training.randomness import generator


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def main() -> None:
    """Print seconds by protocol, and the sums with shared features and without."""
    params, runtime = load_params(), load_runtime()
    job = sys.argv[1] if len(sys.argv) > 1 else f"{params.arms.names[0]}-{params.seeds[0]}"
    set_up(**params.compute.model_dump())
    encoder, group = load_encoder(Path("pretrained") / job), params.probe
    options = {"penalties": group.penalties, "max_iterations": group.max_iterations}

    def look() -> Features:
        return features_of_splits(
            "data/shards", encoder, batch_size=group.batch_size, runtime=runtime, label=f"features of {job}"
        )

    look()  # the first pass reads the images from the disk
    passes, found = timed(look)
    inputs, labels = found.inputs, found.labels

    def nearest() -> None:
        known, asked = torch.from_numpy(inputs["train"]), torch.from_numpy(inputs["test"])
        for k in group.neighbours:
            knn_predict(
                known, torch.from_numpy(labels["train"]), asked, k=k, temperature=group.knn_temperature,
                num_classes=found.num_classes,
            )  # fmt: skip

    def few() -> None:
        for share in group.low_shot:
            rows = few_of_each(labels["train"], share, generator(0, "low shot", str(share)))
            fit_linear_probe(*({**values, "train": values["train"][rows]} for values in (inputs, labels)), **options)

    seconds = {"kNN": timed(nearest)[0]}
    seconds["linear probe"], linear = timed(lambda: fit_linear_probe(inputs, labels, **options))
    seconds["low-shot"] = timed(few)[0]
    test = WholeImages(shards := ImageShards("data/shards", "test"), encoder.image_size[0], workers=runtime.workers)
    away = timed(lambda: without_patches(encoder, linear, test, batch_size=group.batch_size, seed=0))[0]
    print(f"features of {sum(map(len, labels.values())):,} images: {passes:.1f} s; test images: {len(shards):,}")
    for name, value in {**seconds, "occlusion (a pass of its own over the test images)": away}.items():
        print(f"{name}: {value:.2f} s")
    work = sum(seconds.values()) + away
    # Occlusion needs the linear probe, and with it features, when it is a job of its own.
    apart = 4 * passes + work + seconds["linear probe"]
    print(f"four jobs {apart:.1f} s, one job {passes + work:.1f} s: {apart / (passes + work):.2f} times")


if __name__ == "__main__":
    main()
