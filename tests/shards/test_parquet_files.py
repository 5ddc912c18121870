import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from shards.parquet_files import values_of


@pytest.mark.parametrize("kind", [pa.uint64(), pa.int64()])
@pytest.mark.parametrize("chunks", [[], [[]], [[3, 1, 2]], [[3, 1], [], [2, 9]]])
def test_values_of__agrees_with_pyarrow(kind, chunks):
    column = pa.chunked_array([pa.array(chunk, kind) for chunk in chunks], kind)
    values = values_of(column)
    assert values.dtype == np.dtype(kind.to_pandas_dtype())
    assert values.tolist() == column.to_pylist()


def test_values_of__of_a_slice():
    assert values_of(pa.chunked_array([pa.array([5, 6, 7, 8])]).slice(1, 2)).tolist() == [6, 7]


def test_shards__are_read_without_pandas(world):
    code = (
        "import sys\nfrom shards.image_shards import ImageShards\nfrom shards.mask_cache import MaskCache\n"
        "shards = ImageShards('data/shards', 'train')\nMaskCache('masks/learned').rows(shards.ids)\nshards.bytes(0)\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=world, check=True)
