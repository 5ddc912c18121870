"""Any folder of images -> Parquet image shards with manifest and splits, and a list of the refused files."""

import hashlib
import io
import sys
from pathlib import Path

import numpy as np

from config.names import arguments
from config.params import load_params, load_runtime
from images.sources.items import assign_splits
from images.sources.preparation import check_outcome, fill_shards, open_source, write_rejected
from jobs.metrics import write_metrics
from jobs.progress import Meter
from jobs.stage import run
from jobs.state import state_folder
from shards.image_shard_writer import ImageShardWriter
from shards.seals import read_sealed_bytes, sealed_file

# Of a data set for transfer or segmentation.
PREPARED = Path("prepared")


def main() -> None:
    """`python -m stages.prepare_data` for data.path, or with KIND SET for the data set data/KIND/SET."""
    group, runtime = load_params().data, load_runtime()
    name = "/".join(arguments("KIND", "SET")) if len(sys.argv) > 1 else ""
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
    write_order(order, outcome.order)
    write_metrics(metrics, outcome.metrics())
    print(f"prepare_data: {outcome.images} images kept, {len(outcome.rejected)} entries refused ({rejected})")


def order_file(path: str) -> Path:
    """The file with the order of the images of `data.path`, which keeps shards as they are when images are added."""
    return state_folder() / "order" / f"{hashlib.sha256(path.encode()).hexdigest()[:16]}.npy"


def write_order(path: Path, order: list[int]) -> None:
    """Keep the order of a preparation for the next."""
    with sealed_file(path) as file:
        np.save(file, np.array(order, dtype="<u8"), allow_pickle=False)


def read_order(path: Path) -> list[int]:
    """Ids in the order of the last preparation; none without one, or with a line printed where its file is damaged."""
    try:
        return np.load(io.BytesIO(read_sealed_bytes(path)), allow_pickle=False).tolist()
    except FileNotFoundError:
        return []
    except ValueError as error:
        print(f"{error}; images are ordered by path instead")
        return []


if __name__ == "__main__":
    run(main)
