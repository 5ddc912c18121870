"""kNN accuracy of a teacher's class token, beside an untrained network and raw pixels.

N training images, M test images.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from evaluation.knn import TEMPERATURE, knn_predict
from images.dataset import WholeImages
from jobs.progress import Meter

BATCH = 256


@torch.no_grad()
def knn_correct(
    vit: VisionTransformer | None,
    *,
    splits: list[WholeImages],
    k: int,
    mean: tuple,
    std: tuple,
    label: str,
    seconds: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether weighted kNN on class tokens is right: test images (M,) bool, and training images (N,) bool, leaving one out.

    Without a network: on standardised pixels. splits: training and test images. The teacher has seen the training images
    but no label, so both are fair, and together they resolve smaller differences. label, seconds: of the lines of progress.
    """

    def tokens(pixels: torch.Tensor) -> torch.Tensor:
        if vit is None:
            return pixels.flatten(1).float()
        device = next(vit.parameters()).device
        offset, scale = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))
        return vit.forward_features((pixels.to(device).float() / 255 - offset) / scale)[:, 0].float()

    meter = partial(Meter, sum(map(len, splits)), seconds=seconds)
    with meter(label=f"{label}: features") as images:
        train, test = (split.gather(tokens, BATCH, images.advance) for split in splits)
    if vit is None:
        centre, spread = train.mean(dim=0), train.std(dim=0) + 1e-6
        train, test = (train - centre) / spread, (test - centre) / spread
    labels = torch.from_numpy(splits[0].labels)
    options: dict[str, Any] = {"k": k, "temperature": TEMPERATURE, "num_classes": int(labels.max()) + 1}
    with meter(label=f"{label}: neighbours", unit="queries") as queries:
        predicted = knn_predict(train, labels, test, **options, advance=queries.advance)
        own = knn_predict(train, labels, train, **options, leave_one_out=True, advance=queries.advance)
    return predicted.numpy() == splits[1].labels, own.numpy() == splits[0].labels


def knn_metrics(
    trained: tuple[np.ndarray, np.ndarray], others: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, float]:
    """Accuracies on the test images, and by how much the teacher beats each of `others` over test and training images.

    `knn_above_NAME` is the paired difference, `knn_above_NAME_se` its standard error over these `knn_above_images`: all test
    images, and all training images, each among the other ones.
    """
    metrics = {
        "knn_accuracy": float(trained[0].mean()),
        "test_images": len(trained[0]),
        "knn_above_images": sum(map(len, trained)),
    }
    for name, other in others.items():
        apart = np.concatenate(trained).astype(float) - np.concatenate(other)
        metrics[f"knn_accuracy_{name}"] = float(other[0].mean())
        metrics[f"knn_above_{name}"] = float(apart.mean())
        metrics[f"knn_above_{name}_se"] = float(apart.std(ddof=1) / np.sqrt(len(apart)))
    return metrics
