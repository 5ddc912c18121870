"""Any folder of images -> Parquet image shards with manifest and splits, and a list of what was refused."""

import hashlib
import sys
from pathlib import Path

import numpy as np

from images.preparation import check_outcome, fill_shards, write_rejected
from images.sources import open_source
from images.splits import assign_splits
from pipeline.files import state_folder, whole_file
from pipeline.image_shards import ImageShardWriter
from pipeline.params import load_params, load_runtime
from pipeline.stage import Meter, run, write_metrics

# Of a data set for transfer or segmentation.
PREPARED = Path("prepared")


def main() -> None:
    """`python -m stages.prepare_data` for data.path, or with KIND/NAME for the data set data/KIND/NAME."""
    group, runtime = load_params().data, load_runtime()
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    path = f"data/{name}" if name else group.path
    folder = PREPARED / name if name else Path("data")
    shards, rejected = folder / "shards", folder / "rejected.parquet"
    metrics = f"metrics/prepare_data{name and '/' + name}.json"
    source = open_source(path, image_column=group.image_column, label_column=group.label_column)
    assign_splits(source.items, seed=group.split_seed, val_share=group.val_share, test_share=group.test_share)
    order = order_file(path)
    writer = ImageShardWriter(
        shards,
        classes=source.classes,
        has_masks=source.has_masks,
        shard_bytes=int(group.shard_mib * 2**20),
        store=group.store,
    )
    meter = Meter(len(source.items), label=f"prepare_data {name}".strip(), seconds=runtime.log_seconds)
    with writer:
        outcome = fill_shards(
            writer,
            source,
            previous=read_order(order),
            max_pixels=group.max_pixels,
            workers=runtime.workers,
            advance=meter.advance,
        )
        meter.close()
        write_rejected(rejected, outcome.rejected)
        check_outcome(outcome, max_rejected_share=group.max_rejected_share, listing=rejected)
    with whole_file(order) as file:
        np.save(file, np.array(outcome.order, dtype="<u8"), allow_pickle=False)
    write_metrics(metrics, outcome.metrics())
    print(f"prepare_data: {outcome.images} images kept, {len(outcome.rejected)} entries refused ({rejected})")


def order_file(path: str) -> Path:
    """Where the order of the images of `data.path` is kept: it holds shards still when images are added."""
    return state_folder() / "order" / f"{hashlib.sha256(path.encode()).hexdigest()[:16]}.npy"


def read_order(path: Path) -> list[int]:
    """Ids in the order of the last preparation; none where there was none, or its file is damaged: it is optional."""
    try:
        return np.load(path, allow_pickle=False).tolist()
    except (OSError, ValueError, EOFError):
        return []


if __name__ == "__main__":
    run(main)
