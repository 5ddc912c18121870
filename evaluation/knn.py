"""Classification of frozen features by their nearest neighbours.

N training images, M test images, F features, C classes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1024
# Of that source.
TEMPERATURE = 0.07


@torch.no_grad()
def knn_predict(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    k: int,
    temperature: float,
    num_classes: int,
    leave_one_out: bool = False,
    advance: Callable[[int], object] = lambda images: None,
) -> Tensor:
    """Predicted classes (M,) int64: the k most similar training images vote with weight exp(cosine / temperature).

    train_features: (N, F) float; train_labels: (N,) int64 in 0..C-1; test_features: (M, F). Of equal votes the lower
    class wins. With fewer than k training images all of them vote. leave_one_out: the test images are the training
    images, and none votes for itself. advance: called with the number of test images of each chunk that is done. Memory grows
    with 1,024 rows of the test set.
    Source: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018, sec. 3.4.
    """
    assert len(train_features) == len(train_labels) > 0, (train_features.shape, train_labels.shape)
    gallery = F.normalize(train_features.float(), dim=1).T
    labels = train_labels.to(gallery.device)
    most = len(labels) - leave_one_out
    predicted = []
    for start, queries in zip(range(0, len(test_features), CHUNK), test_features.split(CHUNK), strict=False):
        cosines = F.normalize(queries.float(), dim=1) @ gallery
        if leave_one_out:
            own = torch.arange(len(queries), device=cosines.device)
            cosines[own, start + own] = -torch.inf
        similarity, neighbours = cosines.topk(min(k, most), dim=1)
        # Relative to the best, so that a small temperature does not overflow.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = torch.zeros(len(queries), num_classes, device=gallery.device)
        predicted.append(votes.scatter_add_(1, labels[neighbours], weights).argmax(dim=1))
        advance(len(queries))
    return torch.cat(predicted) if predicted else torch.empty(0, dtype=torch.int64)
