"""Accuracy over images and its mean over classes."""

import numpy as np


def accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Share of images (N,) whose predicted class is the true one."""
    return float(np.mean(predicted == truth))


def class_accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes that occur in `truth` (N,) of each class's own accuracy."""
    return float(np.mean([np.mean(predicted[truth == name] == name) for name in np.unique(truth)]))
