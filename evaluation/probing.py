"""What frozen features know: kNN, an exact linear probe, the same from few labels, and with parts of the image away.

N images of a split, D features, L patches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from config.evaluation_groups import ProbeParams
from config.params import Runtime
from evaluation.accuracy import accuracy, class_accuracy
from evaluation.knn import knn_predict
from evaluation.linear import LinearProbe, few_of_each, fit_linear_probe
from evaluation.predictions import NOT_ASKED, Predictions
from images.dataset import WholeImages
from jobs.progress import Meter
from models.vit import VisionTransformer
from shards.image_shards import ImageShards
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
    """One pass of the encoder over every image, whole, at its size: what all protocols on frozen features share."""
    inputs, labels = {}, {}
    for split in SPLITS:
        shards = ImageShards(shards_folder, split)
        images = WholeImages(shards, encoder.image_size[0], workers=runtime.workers)
        meter = Meter(len(images), label=f"{label}: {split} features", seconds=runtime.log_seconds)
        inputs[split] = images.gather(partial(features, encoder), batch_size, meter.advance).numpy()
        meter.close()
        labels[split] = images.labels
    return Features(inputs, labels, shards.ids, len(shards.classes))


def probe(found: Features, group: ProbeParams, *, seed: int) -> tuple[Predictions, LinearProbe]:
    """Predictions for the test images, and the linear probe from all labels; its penalty is chosen on val.

    seed: draws the few labelled images, the same ones for every arm. The protocols are named by their metrics.
    """
    inputs, labels = found.inputs, found.labels
    said: Arrays = {}
    for k in group.neighbours:
        said["knn_accuracy" if k == group.neighbours[0] else f"knn_accuracy_k{k}"] = knn_predict(
            torch.from_numpy(inputs["train"]),
            torch.from_numpy(labels["train"]),
            torch.from_numpy(inputs["test"]),
            k=k,
            temperature=group.knn_temperature,
            num_classes=found.num_classes,
        ).numpy()
    options: dict[str, Any] = {"penalties": group.penalties, "max_iterations": group.max_iterations}
    whole = fit_linear_probe(inputs, labels, **options)
    said["linear_accuracy"] = whole(inputs["test"])
    for share in group.low_shot:
        rows = few_of_each(labels["train"], share, generator(seed, "low shot", str(share)))
        few, few_labels = ({**values, "train": values["train"][rows]} for values in (inputs, labels))
        said[f"low_shot_{100 * share:g}_accuracy"] = fit_linear_probe(few, few_labels, **options)(inputs["test"])
    return Predictions(found.ids, labels["test"], said), whole


def metrics_of(predictions: Predictions) -> dict[str, float]:
    """The accuracy of every protocol, the class mean of the linear probe, and the number of images."""
    metrics: dict[str, float] = {"test_images": len(predictions.labels)}
    for name, said in predictions.classes.items():
        asked = said != NOT_ASKED
        if asked.any():
            metrics[name] = accuracy(said[asked], predictions.labels[asked])
    if "linear_accuracy" in metrics:
        said = predictions.classes["linear_accuracy"]
        metrics["linear_class_accuracy"] = class_accuracy(said, predictions.labels)
    return metrics


def occlusions(parts: torch.Tensor, *, num_parts: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two masks (N, L) bool, True is away: all patches of one part of the image, and as many anywhere.

    parts: (N, L) integer, 0..num_parts-1, anything above is background. The part is drawn from those that the image has
    and that leave a patch to look at; an image without such a part keeps all its patches in both.
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
    """Predicted classes (B,) of images (B, 3, h, w) without the patches `gone` (B, L) bool; `NOT_ASKED` where none is away.

    features: (images (n, 3, h, w), visible patches (n, V)) -> (n, D). Images with equally many visible patches go together.
    """
    said = np.full(len(gone), NOT_ASKED)
    lost = gone.sum(dim=1)
    for count in lost.unique().tolist():
        if count == 0:
            continue
        rows = (lost == count).nonzero().flatten()
        visible = (~gone[rows]).nonzero()[:, 1].view(len(rows), -1)
        said[rows.numpy()] = predict(features(pixels[rows], visible).numpy(force=True))
    return said
