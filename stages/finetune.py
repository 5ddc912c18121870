"""End-to-end classification from one arm's encoder, as in MAE's recipe."""

import sys
from pathlib import Path

from images.dataset import WholeImages
from images.stream import TrainingImages
from pipeline.files import whole_folder, write_rows
from pipeline.fingerprint import fingerprint
from pipeline.image_shards import ImageShards
from pipeline.params import load_params, load_runtime
from pipeline.predictions import Predictions, write_predictions
from pipeline.stage import run, write_metrics
from training.accuracy import accuracy, class_accuracy
from training.compute import set_up
from training.encoders import save_model
from training.finetuning import Finetuning
from training.loop import train
from training.scratch import Scratch


def main() -> None:
    """`python -m stages.finetune ARM SEED`."""
    params, runtime, group = load_params(), load_runtime(), load_params().finetune
    job, seed = f"{sys.argv[1]}-{sys.argv[2]}", int(sys.argv[2])
    folder = Path("pretrained") / job
    crop = {name: getattr(params.pretrain, name) for name in ("decode_size", "shuffle_images", "crop_ratio")}
    identity = fingerprint(
        "stages.finetune",
        params={"seed": seed, "finetune": group.model_dump(), **crop},
        compute=params.compute,
        inputs=["data/shards", folder],
    )
    with Scratch(f"finetune-{job}", identity) as scratch:
        compute = set_up(**params.compute.model_dump())
        shards = ImageShards("data/shards", "train")
        images = TrainingImages(
            shards, params.pretrain.decode_size, window=params.pretrain.shuffle_images, ram_gib=runtime.ram_gib
        )
        task = Finetuning(
            images,
            folder,
            group,
            classes=len(shards.classes),
            crop_ratio=params.pretrain.crop_ratio,
            seed=seed,
            compute=compute,
            workers=runtime.workers,
            prefetch=runtime.prefetch,
        )
        history = train(
            task.step,
            steps=task.steps,
            state={"model": task.model, "optimizer": task.optimizer, "scaler": task.scaler},
            scratch=scratch,
            seed=seed,
            label=f"finetune {job}",
            batch_size=group.batch_size,
            checkpoint_seconds=runtime.checkpoint_seconds,
            log_seconds=runtime.log_seconds,
        )
        test = WholeImages(ImageShards("data/shards", "test"), task.model.image_size[0], workers=runtime.workers)
        predicted = test.gather(task.predict, group.batch_size).numpy()
        with whole_folder(Path("finetuned") / job) as target:
            save_model(target, task.model, task.config)
        write_rows(f"history/finetune/{job}.json", history)
        said = Predictions(test.shards.ids, test.labels, {"finetune_accuracy": predicted})
        write_predictions(Path("predictions/finetune") / f"{job}.parquet", said)
        write_metrics(
            f"metrics/finetune/{job}.json",
            {
                "finetune_accuracy": accuracy(predicted, test.labels),
                "finetune_class_accuracy": class_accuracy(predicted, test.labels),
                "test_images": len(test),
            },
        )


if __name__ == "__main__":
    run(main)
