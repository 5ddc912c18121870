"""The predicted class of every test image: one Parquet file a job, for confusion matrices and bootstrap intervals.

N test images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.accuracy import accuracy, class_accuracy
from shards.files import whole_file

# In place of a class, for an image that a protocol leaves out.
NO_PREDICTION = -1


@dataclass(frozen=True)
class Predictions:
    """ids: (N,) uint64, ascending. labels: (N,) true classes. classes: protocol -> (N,) predicted ones, or `NO_PREDICTION`."""

    ids: np.ndarray
    labels: np.ndarray
    classes: Mapping[str, np.ndarray]

    def correct(self, protocol: str) -> np.ndarray:
        """(N,) float: 1 right, 0 wrong, NaN for an image that the protocol leaves out."""
        predicted = self.classes[protocol]
        return np.where(predicted == NO_PREDICTION, np.nan, (predicted == self.labels).astype(np.float64))


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write the whole file or none."""
    columns = {"id": predictions.ids, "label": predictions.labels.astype(np.int32)}
    columns |= {name: np.asarray(predicted).astype(np.int32) for name, predicted in predictions.classes.items()}
    with whole_file(path) as file:
        pq.write_table(pa.table(columns), file, compression="zstd")


def read_predictions(path: Path) -> Predictions:
    """Read a file that `write_predictions` wrote; a missing or damaged one is a ValueError that names it."""
    try:
        table = pq.read_table(path)
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        return Predictions(columns.pop("id"), columns.pop("label"), columns)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise ValueError(f"{path}: missing or damaged ({error}); run `dvc repro` again") from None


def metrics_of(predictions: Predictions) -> dict[str, float]:
    """The accuracy of every protocol, the class mean of the linear probe, and the number of images."""
    metrics: dict[str, float] = {"test_images": len(predictions.labels)}
    for name, predicted in predictions.classes.items():
        is_tested = predicted != NO_PREDICTION
        if is_tested.any():
            metrics[name] = accuracy(predicted[is_tested], predictions.labels[is_tested])
    if "linear_accuracy" in metrics:
        metrics["linear_class_accuracy"] = class_accuracy(predictions.classes["linear_accuracy"], predictions.labels)
    return metrics
