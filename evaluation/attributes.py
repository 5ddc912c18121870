"""Attribute probes: what an encoder knows of an image besides its class, a linear probe for each attribute.

N images of a split, D features.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from config.evaluation_groups import ProbeParams
from evaluation.accuracy import accuracy
from evaluation.linear import fit_linear_probe

NO_VALUE = -1


def read_attributes(path: str | Path, names: Sequence[str], ids: np.ndarray) -> dict[str, np.ndarray]:
    """Attribute -> its value's number for each of `ids` (N,), `NO_VALUE` where the table has none.

    path: what `stages.prepare_data` wrote: the column id, ascending, and a column of text for each attribute.
    """
    try:
        table = pq.read_table(path, columns=["id", *names], page_checksum_verification=True)
        known = table["id"].to_numpy()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise ValueError(
            f"{path}: missing or damaged ({' '.join(str(error).split())}); run `dvc repro` again"
        ) from None
    places = np.minimum(np.searchsorted(known, ids), max(0, len(known) - 1))
    is_there = known[places] == ids if len(known) else np.zeros(len(ids), dtype=bool)
    values = {}
    for name in names:
        texts = table[name].to_pylist()
        present = sorted({text for text in texts if text is not None})
        numbers = {None: NO_VALUE, **{text: number for number, text in enumerate(present)}}
        coded = np.array([numbers[text] for text in texts], dtype=np.int64)
        values[name] = np.where(is_there, coded[places], NO_VALUE) if len(coded) else np.full(len(ids), NO_VALUE)
    return values


def attribute_metrics(
    inputs: dict[str, np.ndarray],
    values: dict[str, dict[str, np.ndarray]],
    group: ProbeParams,
    *,
    device: torch.device,
    advance: Callable[[int], object] = lambda fits: None,
) -> dict[str, float]:
    """`attribute_NAME_accuracy` of each attribute's exact linear probe, with `_floor` and `_images` (of test), and the means.

    inputs: features (N, D) of train, val and test; values: split -> attribute -> (N,) numbers, `NO_VALUE` for images that have
    none, which take no part. Floor: the score of always saying the most frequent value of train. Means: `attributes_accuracy`
    and `attributes_floor`; `attributes_images` is the least.
    """
    scores, floors, images = {}, {}, {}
    for name in values["train"]:
        features, labels = {}, {}
        for split, of_split in values.items():
            rows = of_split[name] != NO_VALUE
            features[split], labels[split] = inputs[split][rows], of_split[name][rows]
        probe = fit_linear_probe(
            features,
            labels,
            penalties=group.penalties,
            max_iterations=group.max_iterations,
            device=device,
            advance=advance,
        )
        scores[name] = accuracy(probe(features["test"]), labels["test"])
        images[name] = len(labels["test"])
        floors[name] = accuracy(np.full(len(labels["test"]), np.bincount(labels["train"]).argmax()), labels["test"])
    return {
        "attributes_accuracy": float(np.mean([*scores.values()])),
        "attributes_floor": float(np.mean([*floors.values()])),
        "attributes_images": min(images.values()),
        **{f"attribute_{name}_accuracy": score for name, score in scores.items()},
        **{f"attribute_{name}_floor": floor for name, floor in floors.items()},
        **{f"attribute_{name}_images": count for name, count in images.items()},
    }
