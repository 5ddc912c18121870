"""Frozen features of one arm and seed, computed once for every protocol that the data allow."""

from pathlib import Path

import torch

from config.evaluation_groups import ProbeParams
from config.names import arguments
from config.params import Runtime, load_params, load_runtime
from evaluation.attributes import attribute_metrics, read_attributes
from evaluation.dense import IMAGES, dense_metrics
from evaluation.predictions import Predictions, metrics_of, write_predictions
from evaluation.probing import Features, features_of_splits, probe
from evaluation.rankme import rankme
from images.dataset import decoded_masks, labelled_rows
from jobs.metrics import write_metrics
from jobs.progress import Meter
from jobs.stage import run
from parts.labelling import CELL, majority_labels
from shards.image_shards import ImageShards
from shards.mask_shards import MaskShards
from shards.row_index import SPLITS
from training.compute import full_precision, set_up
from training.encoders import load_encoder


def main() -> None:
    """`python -m stages.probe ARM SEED`."""
    params, runtime = load_params(), load_runtime()
    arm, seed = arguments("ARM", "SEED")
    job, data, group = f"{arm}-{seed}", params.data, params.probe
    label = f"probe {job}"
    compute = set_up(**params.compute.model_dump())
    encoder = load_encoder(Path("pretrained") / job).to(compute.device)
    # Where something else than classes judges, images without a class take part; where nothing does, RankMe alone is left.
    judged = bool(data.labels or data.attributes or data.part_truth)
    frozen = features_of_splits(
        "data/shards",
        encoder,
        splits=SPLITS if judged else ("test",),
        tokens=group.token_images if data.labels else IMAGES if data.part_truth else 0,
        batch_size=group.batch_size,
        runtime=runtime,
        label=label,
        labelled=bool(data.labels) and not (data.attributes or data.part_truth),
        most=None if data.labels or data.attributes else max(IMAGES, group.token_images),
    )
    predictions = Predictions(frozen.ids["test"], frozen.labels["test"], {})
    metrics: dict[str, float] = {"rankme": rankme(torch.from_numpy(frozen.inputs["test"][: group.token_images]))}
    with full_precision():
        metrics |= attributes(frozen, data.attributes, group, device=compute.device, runtime=runtime, label=label)
        if data.part_truth:
            metrics |= true_parts(
                frozen, encoder.grid, group, seed=seed, device=compute.device, runtime=runtime, label=label
            )
    if data.labels:
        predictions, penalty = probe(
            frozen.labelled(), group, seed=seed, device=compute.device, runtime=runtime, label=label
        )
        metrics["penalty"] = penalty
    write_predictions(Path("metrics/predictions/probe") / f"{job}.parquet", predictions)
    write_metrics(f"metrics/probe/{job}.json", {**metrics_of(predictions), **metrics})


def attributes(
    frozen: Features, names: list[str], group: ProbeParams, *, device: torch.device, runtime: Runtime, label: str
) -> dict[str, float]:
    """What the probes of the attributes `names` measure; nothing without any."""
    if not names:
        return {}
    values = {split: read_attributes("data/attributes.parquet", names, frozen.ids[split]) for split in SPLITS}
    fits = len(names) * len(group.penalties)
    with Meter(fits, label=f"{label}: attributes", unit="fits", seconds=runtime.log_seconds) as meter:
        return attribute_metrics(frozen.inputs, values, group, device=device, advance=meter.advance)


def true_parts(
    frozen: Features,
    grid: tuple[int, int],
    group: ProbeParams,
    *,
    seed: int,
    device: torch.device,
    runtime: Runtime,
    label: str,
) -> dict[str, float]:
    """What the dense probe measures on the first images that have tokens and a mask; grid: (gh, gw) of the patches."""
    tokens, truth = {}, {}
    for split in ("train", "test"):
        masks = MaskShards("data/masks", split)
        shards = ImageShards("data/shards", split, only=frozen.ids[split][: len(frozen.tokens[split])])
        rows = labelled_rows(shards, masks)[:IMAGES]
        tokens[split] = frozen.tokens[split][torch.from_numpy(rows)]
        pixels = decoded_masks(masks, shards, rows, max(grid) * CELL)
        truth[split] = majority_labels(pixels, grid).reshape(len(rows), grid[0] * grid[1])
    with Meter(len(group.penalties), label=f"{label}: true parts", unit="fits", seconds=runtime.log_seconds) as meter:
        return dense_metrics(tokens, truth, group, seed=seed, device=device, advance=meter.advance)


if __name__ == "__main__":
    run(main)
