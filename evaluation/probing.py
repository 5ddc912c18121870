"""Protocols on frozen features: kNN, an exact linear probe, the same from few labels, and an attentive probe.

N images of a split, n of them with tokens, D features, L patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from config.evaluation_groups import ProbeParams
from config.params import Runtime
from evaluation.attentive import fit_attentive_probe
from evaluation.knn import knn_predict
from evaluation.linear import few_of_each, fit_linear_probe
from evaluation.predictions import NO_PREDICTION, Predictions
from images.dataset import WholeImages
from jobs.progress import Meter
from models.vit import Attention, VisionTransformer
from shards.image_shards import ImageShards
from shards.row_index import SPLITS
from training.compute import full_precision
from training.encoders import patch_tokens
from training.randomness import generator

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Features:
    """Frozen features (N, D), class indices (N,), -1 for none, and ids (N,) of train, val and test.

    tokens: (n, L, D) float16, patch tokens of the first n images of each. heads: of the encoder.
    """

    inputs: Arrays
    labels: Arrays
    ids: Arrays
    num_classes: int
    heads: int = 1
    tokens: dict[str, torch.Tensor] = field(default_factory=dict)

    def labelled(self) -> "Features":
        """Those of the images with a class label alone."""
        kept = {split: labels >= 0 for split, labels in self.labels.items()}
        if all(rows.all() for rows in kept.values()):
            return self
        inputs, labels, ids = (
            {split: values[kept[split]] for split, values in of_splits.items()}
            for of_splits in (self.inputs, self.labels, self.ids)
        )
        tokens = {split: some[torch.from_numpy(kept[split][: len(some)])] for split, some in self.tokens.items()}
        return replace(self, inputs=inputs, labels=labels, ids=ids, tokens=tokens)


def features_of_splits(
    shards_folder: str,
    encoder: VisionTransformer,
    *,
    tokens: int,
    batch_size: int,
    runtime: Runtime,
    label: str,
    splits: Sequence[str] = SPLITS,
    labelled: bool = True,
    most: int | None = None,
) -> Features:
    """Features of whole images at the encoder's size, computed once for all protocols.

    tokens: most images of a split whose patch tokens are kept. labelled: images with a class label alone.
    most: use the first so many images of each split. Memory: the features, and 2 L D bytes for each image with tokens.
    """
    attention = encoder.blocks[0].attn
    assert isinstance(attention, Attention)
    found = Features({}, {}, {}, 0, attention.num_heads)
    for split in splits:
        shards = ImageShards(shards_folder, split, labelled=labelled)
        images = WholeImages(shards, encoder.image_size[0], workers=runtime.workers, most=most)
        kept = torch.empty(min(tokens, len(images)), encoder.num_patches, encoder.width, dtype=torch.float16)
        inputs = np.empty((len(images), encoder.width), dtype=np.float32)
        with Meter(len(images), label=f"{label}: {split} features", seconds=runtime.log_seconds) as meter:
            for rows, pixels in images.batches(batch_size):
                seen = patch_tokens(encoder, pixels)
                inputs[rows] = seen.mean(dim=1).float().numpy(force=True)
                has_place = rows < len(kept)
                kept[torch.from_numpy(rows[has_place])] = seen[torch.from_numpy(has_place)].half().cpu()
                meter.advance(len(rows))
        found.inputs[split], found.labels[split], found.ids[split] = inputs, images.labels, shards.ids[: len(images)]
        found.tokens[split] = kept
    return replace(found, num_classes=len(shards.classes))


@full_precision()
def probe(
    frozen: Features, group: ProbeParams, *, seed: int, device: torch.device, runtime: Runtime, label: str
) -> tuple[Predictions, float]:
    """Predictions for the test images by protocol, and the penalty of the linear probe from all labels, chosen on val.

    seed: draws the few labelled images, the same for every arm.
    """
    inputs, labels = frozen.inputs, frozen.labels
    classes: Arrays = {}
    meter = partial(Meter, seconds=runtime.log_seconds)
    if frozen.tokens:
        known = {split: labels[split][: len(kept)] for split, kept in frozen.tokens.items()}
        with meter(len(group.penalties), label=f"{label}: attentive probe", unit="fits") as fits:
            attentive = fit_attentive_probe(
                frozen.tokens, known, penalties=group.penalties, heads=frozen.heads, device=device, advance=fits.advance
            )
        classes["attentive_accuracy"] = np.full(len(labels["test"]), NO_PREDICTION)
        classes["attentive_accuracy"][: len(known["test"])] = attentive(frozen.tokens["test"])
        # Gigabytes, which nothing after it needs.
        frozen.tokens.clear()
    with meter(len(group.neighbours) * len(labels["test"]), label=f"{label}: kNN", unit="queries") as queries:
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
    return Predictions(frozen.ids["test"], labels["test"], classes), whole.penalty
