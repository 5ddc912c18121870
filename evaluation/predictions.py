"""What an encoder said of every test image: one Parquet file a job, from which errors of sampling and confusions are counted.

N test images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.files import whole_file

# In place of a class: this image was not put to this protocol.
NOT_ASKED = -1


@dataclass(frozen=True)
class Predictions:
    """ids: (N,) uint64, ascending. labels: (N,) true classes. classes: protocol -> (N,) predicted ones, or `NOT_ASKED`."""

    ids: np.ndarray
    labels: np.ndarray
    classes: Mapping[str, np.ndarray]

    def correct(self, protocol: str) -> np.ndarray:
        """(N,) float: 1 right, 0 wrong, NaN where the image was not asked about."""
        found = self.classes[protocol]
        return np.where(found == NOT_ASKED, np.nan, (found == self.labels).astype(np.float64))


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write the whole file or none."""
    columns = {"id": predictions.ids, "label": predictions.labels.astype(np.int32)}
    columns |= {name: np.asarray(found).astype(np.int32) for name, found in predictions.classes.items()}
    with whole_file(path) as file:
        pq.write_table(pa.table(columns), file, compression="zstd")


def read_predictions(path: Path) -> Predictions:
    """Read a file of `write_predictions`; a missing or damaged one is a ValueError that names it."""
    try:
        table = pq.read_table(path)
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        return Predictions(columns.pop("id"), columns.pop("label"), columns)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise ValueError(f"{path}: missing or damaged ({error}); run `dvc repro` again") from None
