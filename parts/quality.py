"""The quality of part labels, against true part labels and against known failures.

N images, (gh, gw) patch grid, K parts. Truth 0 is background; 255 is unlabelled and left out. Every measure over a set comes
from one table of all its patches, so a part must mean the same in every image to score. scikit-learn and SciPy compute them.
"""

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import entropy
from sklearn.metrics import adjusted_rand_score, mutual_info_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from parts.foreground import border_foreground
from parts.labelling import UNLABELLED

LEVELS = 4


def part_quality(labels: np.ndarray, truth: np.ndarray, *, num_parts: int, background: int | None) -> dict[str, float]:
    """All measures of labels (N, gh, gw) against truth (N, gh, gw); `background` is the id K, or None.

    nmi, ari: over all patches. nmi_foreground, ari_foreground: over patches whose truth is not 0; a predicted background
    counts as a label there. nmi_foreground_per_image: mean over images with at least two true parts.
    miou: mean IoU over the true labels present, after the best one-to-one matching; an unmatched label counts 0.
    foreground_iou: IoU of the predicted foreground and `truth is not 0`; see `foreground_of`. The others: see `usage`.
    Masks of whole objects have one true part, with which parts cannot agree or disagree: then miou and the measures over the
    foreground's parts are left out, and nmi_foreground_per_image where no image has two parts.
    Raises ValueError if no patch has a true part.
    """
    known = truth != UNLABELLED
    predicted, actual = labels[known], truth[known]
    inside = known & (truth != 0)
    if not inside.any():
        raise ValueError("no patch has a true part: nothing to measure; set data.part_truth to [] for this data")
    foreground = foreground_of(labels, background) & known
    return {
        "nmi": float(normalized_mutual_info_score(actual, predicted)),
        "ari": float(adjusted_rand_score(actual, predicted)),
        "foreground_iou": float((foreground & inside).sum() / (foreground | inside).sum()),
        **(_agreement(labels, truth, inside) if len(np.unique(truth[inside])) > 1 else {}),
        **usage(labels, inside, num_parts),
    }


def _agreement(labels: np.ndarray, truth: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    """What needs several true parts. inside: (N, gh, gw) bool, True where the truth is a part."""
    images = [(row[mask], real[mask]) for row, real, mask in zip(labels, truth, inside, strict=True) if mask.any()]
    per_image = [normalized_mutual_info_score(real, row) for row, real in images if len(np.unique(real)) > 1]
    known = truth != UNLABELLED
    return {
        "nmi_foreground": float(normalized_mutual_info_score(truth[inside], labels[inside])),
        "ari_foreground": float(adjusted_rand_score(truth[inside], labels[inside])),
        **({"nmi_foreground_per_image": float(np.mean(per_image))} if per_image else {}),
        "miou": matched_iou(labels[known], truth[known]),
    }


def foreground_of(labels: np.ndarray, background: int | None) -> np.ndarray:
    """(N, gh, gw) bool, True where labels (N, gh, gw) are not the background.

    Labels without a background (None) get one without truth: those that are no rarer at the border of the images than
    elsewhere, as `parts.foreground.border_foreground` has it. So a method is not credited with calling everything an object.
    """
    foreground: np.ndarray
    if background is not None:
        foreground = labels != background
    else:
        patches = torch.from_numpy(labels.reshape(len(labels), -1).astype(np.int64))
        foreground = border_foreground(patches, labels.shape[1:]).numpy().reshape(labels.shape)
    return foreground


def matched_iou(labels: np.ndarray, truth: np.ndarray) -> float:
    """Mean IoU over the true labels, after the best one-to-one matching of labels (n,) to truth (n,) (Hungarian)."""
    table = contingency_matrix(truth, labels).astype(float)
    iou = table / (table.sum(axis=1, keepdims=True) + table.sum(axis=0, keepdims=True) - table)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return float(iou[rows, columns].sum() / len(table))


def usage(labels: np.ndarray, foreground: np.ndarray, num_parts: int) -> dict[str, float]:
    """How the K parts share the foreground patches. labels: (N, gh, gw), foreground: (N, gh, gw) bool.

    dead_parts: parts with less than 1 / (4 K) of the patches. usage_entropy: entropy of the parts' shares, 1 if even, 0 if
    one part has all.
    """
    counts = np.bincount(labels[foreground], minlength=num_parts)[:num_parts]
    dead = int((counts < foreground.sum() / (4 * num_parts)).sum())
    spread = float(entropy(counts)) / math.log(num_parts) if counts.any() else 0.0
    return {"dead_parts": dead, "usage_entropy": spread}


def position_information(labels: np.ndarray) -> float:
    """Share of the labels' (N, gh, gw) entropy that the place in the grid explains: 1 if parts tile the image."""
    places = np.broadcast_to(np.arange(labels[0].size), (len(labels), labels[0].size))
    return _explained(labels.reshape(len(labels), -1).ravel(), places.ravel())


def colour_information(labels: np.ndarray, colours: np.ndarray) -> float:
    """Share of the labels' (N, gh, gw) entropy that the patch's mean colour (N, gh, gw, 3) in [0, 1] explains.

    Colours are cut into `LEVELS` steps a channel.
    """
    steps = np.clip((colours * LEVELS).astype(int), 0, LEVELS - 1)
    return _explained(labels.ravel(), (steps @ np.array([LEVELS * LEVELS, LEVELS, 1])).ravel())


def _explained(labels: np.ndarray, causes: np.ndarray) -> float:
    total = entropy(np.unique(labels, return_counts=True)[1])
    return float(mutual_info_score(causes, labels) / total) if total > 0 else 0.0
