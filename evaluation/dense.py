"""The dense probe: whether a patch's own token tells which true part lies there.

n images, L patches, D features. Truth 0 is background; 255 is unlabelled and left out.
"""

from collections.abc import Callable

import numpy as np
import torch

from config.evaluation_groups import ProbeParams
from evaluation.confusion import confusion, floor_metrics, segmentation_metrics
from evaluation.linear import fit_linear_probe
from parts.labelling import UNLABELLED
from training.randomness import generator

# Most images of train and of test whose patches are used, most training patches of these that the probe is fitted to, and the
# share of the training images whose patches choose its penalty instead.
IMAGES, PATCHES, VAL_SHARE = 2_000, 50_000, 0.1
# Test images whose tokens are in memory in single precision at once.
ROWS = 1024


def dense_metrics(
    tokens: dict[str, torch.Tensor],
    truth: dict[str, np.ndarray],
    group: ProbeParams,
    *,
    seed: int,
    device: torch.device,
    advance: Callable[[int], object] = lambda fits: None,
) -> dict[str, float]:
    """`dense_miou` of an exact linear probe of patch tokens for the true part, and `dense_floor` of always saying the largest;
    `dense_images`: the test images with a labelled patch.

    tokens: (n, L, D) of train and test; truth: (n, L) of the same images. seed: draws the training patches, the same for every
    arm. Differs from the linear head of `segment`: each patch has one label, its token is judged alone, and nothing is
    augmented. Empty where a split has no labelled patch or train only one part.
    """
    count = len(truth["train"])
    is_val = np.arange(count) >= count - max(1, int(VAL_SHARE * count))
    inputs, labels = {}, {}
    for split, mine in (("train", ~is_val), ("val", is_val)):
        images, patches = np.nonzero((truth["train"] != UNLABELLED) & mine[:, None])
        chosen = np.sort(torch.randperm(len(images), generator=generator(seed, "dense", split)).numpy()[:PATCHES])
        images, patches = images[chosen], patches[chosen]
        inputs[split] = tokens["train"][torch.from_numpy(images), torch.from_numpy(patches)].float().numpy()
        labels[split] = truth["train"][images, patches].astype(np.int64)
    known = truth["test"] != UNLABELLED
    if not known.any() or not len(labels["val"]) or len(np.unique(labels["train"])) < 2:
        return {}
    probe = fit_linear_probe(
        inputs, labels, penalties=group.penalties, max_iterations=group.max_iterations, device=device, advance=advance
    )
    classes = 1 + max(int(labels["train"].max()), int(truth["test"][known].max()))
    counts = np.zeros((classes, classes), dtype=np.int64)
    for start in range(0, len(known), ROWS):
        rows = slice(start, start + ROWS)
        seen = tokens["test"][rows][torch.from_numpy(known[rows])].float().numpy()
        counts += confusion(probe(seen), truth["test"][rows][known[rows]], classes)
    floor = floor_metrics(np.bincount(labels["train"], minlength=classes), counts.sum(axis=1))
    shown = int(known.any(axis=1).sum())
    return {
        "dense_miou": segmentation_metrics(counts)["miou"],
        "dense_floor": floor["floor_miou"],
        "dense_images": shown,
    }
