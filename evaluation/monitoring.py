"""What an encoder is worth while it trains: kNN accuracy and RankMe, now and then, on the same few training images.

N images, D features.
"""

import numpy as np
import torch

from config.evaluation_groups import MonitorParams
from evaluation.accuracy import accuracy
from evaluation.knn import TEMPERATURE, knn_predict
from evaluation.rankme import rankme
from images.dataset import WholeImages
from models.mae import split_mask
from models.vit import VisionTransformer
from parts.masking import random_mask
from shards.image_shards import ImageShards
from training.compute import Compute
from training.encoders import features
from training.randomness import generator


class Monitor:
    """Measures an encoder on `group.images` images of train, read once, which are the same for every arm and seed.

    They are whole images under random masks, as pretraining sees them: features cost a quarter, and no arm has masks of its
    own. ratio: share of the patches that is hidden. Its draws have a stream of their own, and it changes nothing in the
    encoder, so that a training has the same bits without it.
    """

    def __init__(
        self, encoder: VisionTransformer, shards: ImageShards, group: MonitorParams, *, ratio: float, compute: Compute
    ) -> None:
        self.encoder, self.every, self.neighbours, self.compute = encoder, group.every, group.neighbours, compute
        some = ImageShards(shards.folder, shards.split, only=shards.ids[chosen(shards.labels, group)])
        images = WholeImages(some, encoder.image_size[0], workers=0)
        self.labels, self.num_classes = torch.from_numpy(images.labels), len(some.classes)
        pixels = images.gather(lambda pixels: pixels, group.batch_size)
        mask = random_mask(len(images), encoder.num_patches, ratio=ratio, generator=generator("monitor"))
        visible, _ = split_mask(mask)
        self.batches = list(zip(*(whole.split(group.batch_size) for whole in (pixels, visible)), strict=True))

    def measure(self) -> dict[str, float]:
        """`rankme` and, where the images have labels, `knn_accuracy`, each image judged by the others.

        Nothing where a feature is not finite: the loss says so at the same step.
        """
        with self.compute.autocast():
            found = torch.cat([features(self.encoder, *batch).cpu() for batch in self.batches])
        if not bool(torch.isfinite(found).all()):
            return {}
        measured = {"rankme": rankme(found)}
        if len(self.labels) > 1 and bool((self.labels >= 0).all()):
            predicted = knn_predict(
                found,
                self.labels,
                found,
                k=self.neighbours,
                temperature=TEMPERATURE,
                num_classes=self.num_classes,
                leave_one_out=True,
            )
            measured["knn_accuracy"] = accuracy(predicted.numpy(), self.labels.numpy())
        return measured


def chosen(labels: np.ndarray, group: MonitorParams) -> np.ndarray:
    """Rows of the first `group.images` images of the first `group.classes` classes, or of any where none has a label.

    labels: (N,) int64, -1 is none. Ids are hashes, so the first images are as good as drawn. Few classes have enough images
    among few for their neighbours to tell them apart.
    """
    is_eligible = (labels >= 0) & (labels < group.classes)
    return np.flatnonzero(is_eligible if is_eligible.any() else labels < 0)[: group.images]
