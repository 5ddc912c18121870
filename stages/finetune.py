"""End-to-end classification from one arm's encoder, as in MAE's recipe."""

from pathlib import Path

from config.names import arguments
from config.params import load_params, load_runtime
from evaluation.accuracy import class_accuracy
from evaluation.finetuning import finetune
from evaluation.predictions import metrics_of, write_predictions
from evaluation.supervised import CROP
from jobs.cluster.distributed import join
from jobs.cluster.launching import launched
from jobs.fingerprint import fingerprint
from jobs.metrics import write_metrics
from jobs.scratch import Scratch
from jobs.stage import run
from shards.files import whole_folder, write_rows
from training.compute import set_up
from training.encoders import save_model


def main() -> None:
    """`python -m stages.finetune ARM SEED`."""
    params, runtime = load_params(), load_runtime()
    arm, seed = arguments("ARM", "SEED")
    if launched("stages.finetune", [arm, str(seed)], world_size=params.compute.world_size, runtime=runtime):
        return
    job = f"{arm}-{seed}"
    folder = Path("pretrained") / job
    identity = fingerprint(
        "stages.finetune",
        params={"seed": seed, "finetune": params.finetune.model_dump(), **params.pretrain.model_dump(include=CROP)},
        compute=params.compute,
        inputs=["data/shards", folder],
    )
    compute = set_up(**params.compute.model_dump())
    with (
        join(compute.world_size, compute.device) as processes,
        Scratch(f"finetune-{job}", identity, processes) as scratch,
    ):
        task, history, predictions = finetune(
            "data/shards",
            folder,
            params.finetune,
            crop=params.pretrain,
            seed=seed,
            compute=compute,
            runtime=runtime,
            scratch=scratch,
            label=f"finetune {job}",
        )
        if processes.rank:
            return
        with whole_folder(Path("finetuned") / job) as target:
            save_model(target, task.tested, task.config)
        write_predictions(Path("metrics/predictions/finetune") / f"{job}.parquet", predictions)
        write_rows(f"history/finetune/{job}.json", history)
        mean = class_accuracy(predictions.classes["finetune_accuracy"], predictions.labels)
        write_metrics(f"metrics/finetune/{job}.json", {**metrics_of(predictions), "finetune_class_accuracy": mean})


if __name__ == "__main__":
    run(main)
