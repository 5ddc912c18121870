"""Protocols on frozen features: kNN, an exact linear probe, the same from few labels, and with parts of the image removed.

N images of a split, D features, L patches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from config.evaluation_groups import ProbeParams
from config.params import Runtime
from evaluation.accuracy import accuracy, class_accuracy
from evaluation.knn import knn_predict
from evaluation.linear import LinearProbe, few_of_each, fit_linear_probe
from evaluation.predictions import NO_PREDICTION, Predictions
from images.dataset import WholeImages
from jobs.progress import Meter
from models.vit import VisionTransformer
from shards.image_shards import ImageShards
from training.compute import full_precision
from training.encoders import features
from training.randomness import generator

SPLITS = ("train", "val", "test")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Features:
    """Frozen features (N, D) and class indices (N,) of train, val and test, and the ids (N,) of test."""

    inputs: Arrays
    labels: Arrays
    ids: np.ndarray
    num_classes: int


def features_of_splits(
    shards_folder: str, encoder: VisionTransformer, *, batch_size: int, runtime: Runtime, label: str
) -> Features:
    """Features of every whole image with a label at the encoder's size, computed once for all protocols."""
    inputs, labels = {}, {}
    for split in SPLITS:
        shards = ImageShards(shards_folder, split, labelled=True)
        images = WholeImages(shards, encoder.image_size[0], workers=runtime.workers)
        with Meter(len(images), label=f"{label}: {split} features", seconds=runtime.log_seconds) as meter:
            inputs[split] = images.gather(partial(features, encoder), batch_size, meter.advance).numpy()
        labels[split] = images.labels
    return Features(inputs, labels, shards.ids, len(shards.classes))


@full_precision()
def probe(
    frozen: Features, group: ProbeParams, *, seed: int, device: torch.device, runtime: Runtime, label: str
) -> tuple[Predictions, LinearProbe]:
    """Predictions for the test images by protocol, and the linear probe from all labels; its penalty is chosen on val.

    seed: draws the few labelled images, the same for every arm.
    """
    inputs, labels = frozen.inputs, frozen.labels
    classes: Arrays = {}
    meter = partial(Meter, seconds=runtime.log_seconds)
    with meter(len(group.neighbours) * len(frozen.ids), label=f"{label}: kNN", unit="queries") as queries:
        for k in group.neighbours:
            classes["knn_accuracy" if k == group.neighbours[0] else f"knn_accuracy_k{k}"] = knn_predict(
                torch.from_numpy(inputs["train"]).to(device),
                torch.from_numpy(labels["train"]),
                torch.from_numpy(inputs["test"]).to(device),
                k=k,
                temperature=group.knn_temperature,
                num_classes=frozen.num_classes,
                advance=queries.advance,
            ).numpy(force=True)
    count = len(group.penalties) * (1 + len(group.low_shot))
    with meter(count, label=f"{label}: linear probes", unit="fits") as fits:
        fit = partial(
            fit_linear_probe,
            penalties=group.penalties,
            max_iterations=group.max_iterations,
            device=device,
            advance=fits.advance,
        )
        whole = fit(inputs, labels)
        classes["linear_accuracy"] = whole(inputs["test"])
        for share in group.low_shot:
            rows = few_of_each(labels["train"], share, generator(seed, "low shot", str(share)))
            few, few_labels = ({**values, "train": values["train"][rows]} for values in (inputs, labels))
            classes[f"low_shot_{100 * share:g}_accuracy"] = fit(few, few_labels)(inputs["test"])
    return Predictions(frozen.ids, labels["test"], classes), whole


def metrics_of(predictions: Predictions) -> dict[str, float]:
    """The accuracy of every protocol, the class mean of the linear probe, and the number of images."""
    metrics: dict[str, float] = {"test_images": len(predictions.labels)}
    for name, predicted in predictions.classes.items():
        is_tested = predicted != NO_PREDICTION
        if is_tested.any():
            metrics[name] = accuracy(predicted[is_tested], predictions.labels[is_tested])
    if "linear_accuracy" in metrics:
        metrics["linear_class_accuracy"] = class_accuracy(predictions.classes["linear_accuracy"], predictions.labels)
    return metrics


def occlusions(parts: torch.Tensor, *, num_parts: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two masks (N, L) bool, True is removed: all patches of one part of the image, and as many random patches.

    parts: (N, L) integer, 0..num_parts-1, anything above is background. The part is drawn from those of the image that do
    not cover it wholly; an image without such a part keeps all its patches in both masks.
    """
    counts = torch.stack([(parts == part).sum(dim=1) for part in range(num_parts)], dim=1)
    eligible = (counts > 0) & (counts < parts.shape[1])
    keys = torch.rand(eligible.shape, generator=draw).masked_fill(~eligible, -1.0)
    chosen = keys.argmax(dim=1)
    gone = (parts == chosen[:, None]) & eligible.any(dim=1, keepdim=True)
    ranks = torch.rand(parts.shape, generator=draw).argsort(dim=1).argsort(dim=1)
    return gone, ranks < gone.sum(dim=1, keepdim=True)


def occluded(
    predict: LinearProbe,
    gone: torch.Tensor,
    features: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
) -> np.ndarray:
    """Predicted classes (B,) of images (B, 3, h, w) without the patches `gone` (B, L) bool; `NO_PREDICTION` if none is removed.

    features: (images (n, 3, h, w), visible patches (n, V)) -> (n, D). Images with equally many visible patches go together.
    """
    predicted = np.full(len(gone), NO_PREDICTION)
    lost = gone.sum(dim=1)
    for count in lost.unique().tolist():
        if count == 0:
            continue
        rows = (lost == count).nonzero().flatten()
        visible = (~gone[rows]).nonzero()[:, 1].view(len(rows), -1)
        predicted[rows.numpy()] = predict(features(pixels[rows], visible).numpy(force=True))
    return predicted
