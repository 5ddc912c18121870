"""Columns of Parquet tables as NumPy arrays."""

import numpy as np
import pyarrow as pa


def values_of(column: pa.ChunkedArray) -> np.ndarray:
    """A column of whole numbers without nulls: (N,), read-only where it is one chunk.

    Not pyarrow's own `to_numpy`, which loads pandas, a second of every job.
    """
    chunks = [np.from_dlpack(chunk) for chunk in column.chunks if len(chunk)]
    if len(chunks) == 1:
        return chunks[0]
    return np.concatenate([np.empty(0, column.type.to_pandas_dtype()), *chunks])
