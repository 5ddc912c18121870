"""What a confusion matrix (C, C) says; rows are the true classes, columns the predicted ones."""

import numpy as np


def confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) int64 counts of `predicted` (n,) against `truth` (n,), both in 0..classes-1."""
    flat = truth.astype(np.int64) * classes + predicted
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def class_iou(counts: np.ndarray) -> dict[int, float]:
    """Intersection over union of every class that the truth holds."""
    both = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - both
    return {int(name): float(both[name] / union[name]) for name in np.flatnonzero(counts.sum(axis=1))}


def segmentation_metrics(counts: np.ndarray) -> dict[str, float]:
    """`miou` over the classes that the truth holds, and `pixel_accuracy`."""
    return {
        "miou": float(np.mean(list(class_iou(counts).values()))),
        "pixel_accuracy": float(np.trace(counts) / counts.sum()),
    }


def floor_metrics(train_pixels: np.ndarray, test_pixels: np.ndarray) -> dict[str, float]:
    """The same, as `floor_*`, of calling every pixel the most frequent class of training.

    train_pixels, test_pixels: (C,) pixels of each class.
    """
    counts = np.zeros((len(test_pixels), len(test_pixels)), dtype=np.int64)
    counts[:, train_pixels.argmax()] = test_pixels
    return {f"floor_{name}": value for name, value in segmentation_metrics(counts).items()}
