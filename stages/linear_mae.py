"""The linear probe of one arm and seed as MAE's recipe trains it: random crops, batch normalisation, LARS."""

from pathlib import Path

from config.names import arguments
from config.params import load_params, load_runtime
from evaluation.linear_mae import LinearMae
from evaluation.predictions import Predictions, metrics_of, write_predictions
from evaluation.supervised import CROP
from images.dataset import WholeImages
from images.stream import TrainingImages
from jobs.fingerprint import fingerprint
from jobs.metrics import write_metrics
from jobs.progress import Meter
from jobs.scratch import Scratch
from jobs.stage import run
from shards.files import write_rows
from shards.image_shards import ImageShards
from training.compute import set_up
from training.encoders import load_encoder
from training.loop import fitted, train


def main() -> None:
    """`python -m stages.linear_mae OPTIMIZER ARM SEED`."""
    params, runtime = load_params(), load_runtime()
    group = params.linear_mae
    name, arm, seed = arguments("OPTIMIZER", "ARM", "SEED")
    job = f"{arm}-{seed}"
    folder = Path("pretrained") / job
    crop = params.pretrain.model_dump(include=CROP)
    identity = fingerprint(
        "stages.linear_mae",
        params={"seed": seed, "linear_mae": group.model_dump(), **crop},
        compute=params.compute,
        inputs=["data/shards", folder],
    )
    with Scratch(f"linear_mae-{name}-{job}", identity) as scratch:
        compute = set_up(**params.compute.model_dump())
        train_shards, test_shards = (ImageShards("data/shards", split, labelled=True) for split in ("train", "test"))
        images = TrainingImages(train_shards, crop["decode_size"], window=crop["shuffle_images"], **runtime.reading)
        label = f"linear_mae {job}"
        task = LinearMae(
            images,
            load_encoder(folder).to(compute.device),
            fitted(group, len(images), label=label),
            label=label,
            crop_ratio=crop["crop_ratio"],
            seed=seed,
            compute=compute,
        )
        history = train(task, scratch=scratch, runtime=runtime)
        test = WholeImages(test_shards, task.encoder.image_size[0], workers=runtime.workers)
        with Meter(len(test), label=f"{label}: test images", seconds=runtime.log_seconds) as meter:
            predicted = test.gather(task.predict, group.batch_size, meter.advance).numpy()
        predictions = Predictions(test.shards.ids, test.labels, {f"linear_{name}_accuracy": predicted})
        write_predictions(Path("metrics/predictions/linear_mae") / name / f"{job}.parquet", predictions)
        write_rows(f"history/linear_mae/{name}/{job}.json", history)
        write_metrics(f"metrics/linear_mae/{name}/{job}.json", metrics_of(predictions))


if __name__ == "__main__":
    run(main)
