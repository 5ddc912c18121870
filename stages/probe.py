"""Frozen features of one arm and seed: kNN, an exact linear probe, and the same from few labels, in one process."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from images.dataset import WholeImages
from pipeline.image_shards import ImageShards
from pipeline.params import load_params, load_runtime
from pipeline.stage import Meter, run, write_metrics
from training.accuracy import accuracy, class_accuracy
from training.compute import set_up
from training.encoders import features, load_encoder
from training.knn import knn_predict
from training.linear import few_of_each, fit_linear_probe
from training.randomness import generator

SPLITS = ("train", "val", "test")


def main() -> None:
    """`python -m stages.probe ARM SEED`."""
    params, runtime = load_params(), load_runtime()
    job, seed = f"{sys.argv[1]}-{sys.argv[2]}", int(sys.argv[2])
    compute = set_up(**params.compute.model_dump())
    encoder = load_encoder(Path("pretrained") / job).to(compute.device)
    inputs, labels = {}, {}
    for split in SPLITS:
        shards = ImageShards("data/shards", split)
        images = WholeImages(shards, encoder.image_size[0], workers=runtime.workers)
        meter = Meter(len(images), label=f"probe {job}: {split} features", seconds=runtime.log_seconds)
        inputs[split] = images.gather(partial(features, encoder), params.probe.batch_size, meter.advance)
        meter.close()
        labels[split] = images.labels
    write_metrics(
        f"metrics/probe/{job}.json",
        evaluate(inputs, labels, num_classes=len(shards.classes), seed=seed, **params.probe.model_dump()),
    )


def evaluate(
    inputs: dict[str, torch.Tensor],
    labels: dict[str, np.ndarray],
    *,
    num_classes: int,
    seed: int,
    neighbours: list[int],
    knn_temperature: float,
    penalties: list[float],
    max_iterations: int,
    low_shot: list[float],
    batch_size: int,
) -> dict[str, float]:
    """Accuracies on test; the penalty is chosen on val, and the test labels are used once.

    inputs: (N, D) features of each split; labels: (N,) class indices. seed: draws the few labelled images, the same ones
    for every arm.
    """
    truth, metrics = labels["test"], {"test_images": len(labels["test"])}
    for k in neighbours:
        predicted = knn_predict(
            inputs["train"],
            torch.from_numpy(labels["train"]),
            inputs["test"],
            k=k,
            temperature=knn_temperature,
            num_classes=num_classes,
        )
        name = "knn_accuracy" if k == neighbours[0] else f"knn_accuracy_k{k}"
        metrics[name] = accuracy(predicted.numpy(), truth)
    arrays = {split: values.numpy() for split, values in inputs.items()}
    predicted, penalty = fit_linear_probe(arrays, labels, penalties=penalties, max_iterations=max_iterations)
    metrics["linear_accuracy"] = accuracy(predicted, truth)
    metrics["linear_class_accuracy"] = class_accuracy(predicted, truth)
    metrics["penalty"] = penalty
    for share in low_shot:
        rows = few_of_each(labels["train"], share, generator(seed, "low shot", str(share)))
        few = {name: {**values, "train": values["train"][rows]} for name, values in (("x", arrays), ("y", labels))}
        predicted, _ = fit_linear_probe(few["x"], few["y"], penalties=penalties, max_iterations=max_iterations)
        metrics[f"low_shot_{100 * share:g}_accuracy"] = accuracy(predicted, truth)
    return metrics


if __name__ == "__main__":
    run(main)
