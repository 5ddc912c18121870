"""Any folder of images -> Parquet image shards with manifest and splits, and a list of the refused files."""

import hashlib
import io
import sys
from pathlib import Path

import numpy as np

from config.groups import LISTING
from config.names import arguments
from config.params import Params, load_params, load_runtime
from images.sources.attributes import check_attributes, read_attributes, write_attributes
from images.sources.class_coverage import check_coverage, count, coverage_lines
from images.sources.items import assign_splits
from images.sources.masks import check_masks, check_splits, check_values, describe_values, labels_of
from images.sources.preparation import Outcome, check_outcome, fill_shards, open_source, use_labels, write_rejected
from images.sources.tree import check_listing
from jobs.metrics import write_metrics
from jobs.progress import Meter
from jobs.stage import run
from jobs.state import state_folder
from shards.image_shard_writer import ImageShardWriter
from shards.mask_shards import MaskShardWriter
from shards.row_index import SPLITS
from shards.seals import read_sealed_bytes, sealed_file

# Of a data set for transfer or segmentation.
PREPARED = Path("prepared")


def main() -> None:
    """`python -m stages.prepare_data` for data.path, or with KIND SET for the data set data/KIND/SET."""
    params, runtime = load_params(), load_runtime()
    group = params.data
    name = "/".join(arguments("KIND", "SET")) if len(sys.argv) > 1 else ""
    path = f"data/{name}" if name else group.path
    folder = PREPARED / name if name else Path("data")
    shards, rejected = folder / "shards", folder / "rejected.parquet"
    metrics = f"metrics/prepare_data{name and '/' + name}.json"
    if not name and group.watch == LISTING:
        check_listing(LISTING, path)
    source = open_source(path, image_column=group.image_column, label_column=group.label_column)
    # A data set for transfer is there to judge encoders; one for segmentation has masks instead.
    use_labels(source, path, name.startswith("transfer/") if name else bool(group.labels))
    assign_splits(source.items, seed=group.split_seed, val_share=group.val_share, test_share=group.test_share)
    counts = count(source)
    check_coverage(path, counts, source.classes)
    for line in coverage_lines(counts, source.classes):
        print(f"prepare_data: {line}")
    attributes = {} if name else read_attributes(path, group.attributes, source.items)
    check_attributes(attributes, {split: [one.id for one in source.items if one.split == split] for split in SPLITS})
    order = order_file(path)
    shard_bytes = int(group.shard_mib * 2**20)
    meter = Meter(len(source.items), label=f"prepare_data {name}".strip(), seconds=runtime.log_seconds)
    with (
        ImageShardWriter(shards, classes=source.classes, shard_bytes=shard_bytes, store=group.store) as images,
        MaskShardWriter(folder / "masks", shard_bytes=shard_bytes, store=group.store) as masks,
    ):
        outcome = fill_shards(
            images,
            masks,
            source,
            previous=read_order(order),
            max_pixels=group.max_pixels,
            workers=runtime.workers,
            advance=meter.advance,
        )
        meter.close()
        write_rejected(rejected, outcome.rejected)
        check_outcome(outcome, max_rejected_share=group.max_rejected_share, listing=rejected)
        check_coverage(path, outcome.kept, source.classes)
        label_masks(masks, outcome, params, name, listing=rejected)
        if not name:
            check_attributes(attributes, outcome.ids(source.items))
            write_attributes("data/attributes.parquet", attributes, outcome.order)
    write_order(order, outcome.order)
    write_metrics(metrics, outcome.metrics())
    print(f"prepare_data: {outcome.images} images kept, {len(outcome.rejected)} entries refused ({rejected})")


def label_masks(masks: MaskShardWriter, outcome: Outcome, params: Params, name: str, *, listing: Path) -> None:
    """Set what each value of the masks stands for, print it, and check that the masks serve what the data set is there for.

    name: KIND/SET, or empty for data.path. listing: where the refused ones are listed.
    """
    kind, _, data_set = name.partition("/")
    mapping, key = {
        "": (params.data.mask_values, "data.mask_values"),
        "segment": (params.segment.mask_values.get(data_set, {}), f"segment.mask_values.{data_set}"),
        "transfer": ({}, ""),
    }[kind]
    masks.labels = labels_of(masks.values, mapping)
    if kind == "transfer":
        return  # Nothing reads these.
    pixels = np.sum([*masks.pixels.values()], axis=0)
    for line in describe_values(pixels, mapping, parts=not name, key=key):
        print(f"prepare_data {name}".strip() + f": masks: {line}")
    if name or params.data.part_truth:
        check_masks(outcome.rejected, outcome.masks, max_rejected_share=params.data.max_rejected_share, listing=listing)
        if masks.values:
            check_values(pixels, masks.labels, parts=not name, key=key)
        check_splits(masks.pixels, masks.labels, parts=not name)


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
