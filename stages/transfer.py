"""Another data set: frozen features of one arm and seed, and fine-tuning, with the recipes of probe and finetune."""

from pathlib import Path

from config.names import arguments
from config.params import load_params, load_runtime
from evaluation.finetuning import finetune
from evaluation.predictions import Predictions, metrics_of, write_predictions
from evaluation.probing import features_of_splits, probe
from evaluation.supervised import CROP
from jobs.fingerprint import fingerprint
from jobs.metrics import write_metrics
from jobs.scratch import Scratch
from jobs.stage import run
from training.compute import set_up
from training.encoders import load_encoder


def main() -> None:
    """`python -m stages.transfer SET ARM SEED`."""
    params, runtime = load_params(), load_runtime()
    name, arm, seed = arguments("SET", "ARM", "SEED")
    job = f"{arm}-{seed}"
    shards, pretrained = f"prepared/transfer/{name}/shards", Path("pretrained") / job
    group = params.finetune.model_copy(
        update={"epochs": params.transfer.epochs, "warmup_epochs": params.transfer.warmup_epochs}
    )
    identity = fingerprint(
        "stages.transfer",
        params={"seed": seed, "finetune": group.model_dump(), **params.pretrain.model_dump(include=CROP)},
        compute=params.compute,
        inputs=[shards, pretrained],
    )
    with Scratch(f"transfer-{name}-{job}", identity) as scratch:
        compute = set_up(**params.compute.model_dump())
        label = f"transfer {name} {job}"
        # First: scratch keeps it, and a kill after it costs no step.
        _, _, tuned = finetune(
            shards,
            pretrained,
            group,
            crop=params.pretrain,
            seed=seed,
            compute=compute,
            runtime=runtime,
            scratch=scratch,
            label=label,
        )
        features = features_of_splits(
            shards,
            load_encoder(pretrained).to(compute.device),
            tokens=params.probe.token_images,
            batch_size=params.probe.batch_size,
            runtime=runtime,
            label=label,
        )
        frozen, _ = probe(features, params.probe, seed=seed, device=compute.device, runtime=runtime, label=label)
        predictions = Predictions(frozen.ids, frozen.labels, {**frozen.classes, **tuned.classes})
        write_predictions(Path("metrics/predictions/transfer") / name / f"{job}.parquet", predictions)
        write_metrics(f"metrics/transfer/{name}/{job}.json", metrics_of(predictions))


if __name__ == "__main__":
    run(main)
