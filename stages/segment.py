"""Semantic segmentation of another data set from one arm's encoder: a linear head, and UPerNet trained end to end."""

from pathlib import Path

from config.names import arguments
from config.params import Params, Runtime, load_params, load_runtime
from evaluation.segmenting import Segmentation, class_iou, encoder_at, num_classes_of, segmentation_metrics
from images.dataset import WholeImages
from images.stream import TrainingImages
from jobs.fingerprint import fingerprint
from jobs.metrics import write_metrics
from jobs.scratch import Scratch
from jobs.stage import run
from shards.files import write_rows
from shards.image_shards import ImageShards
from training.compute import Compute, set_up
from training.encoders import load_encoder
from training.loop import train


def main() -> None:
    """`python -m stages.segment SET ARM SEED`."""
    params, runtime = load_params(), load_runtime()
    name, arm, seed = arguments("SET", "ARM", "SEED")
    job = f"{arm}-{seed}"
    compute = set_up(**params.compute.model_dump())
    metrics: dict[str, float] = {"test_images": len(ImageShards(f"prepared/segment/{name}/shards", "test"))}
    history = []
    for head in params.segment.heads:
        measures, rows = segment(name, job, head, params=params, runtime=runtime, compute=compute, seed=seed)
        metrics |= {f"{head}_{measure}": value for measure, value in measures.items()}
        history += [{"step": row["step"], f"{head}_loss": row["loss"]} for row in rows]
    write_rows(f"history/segment/{name}/{job}.json", history)
    write_metrics(f"metrics/segment/{name}/{job}.json", metrics)


def segment(
    name: str, job: str, head: str, *, params: Params, runtime: Runtime, compute: Compute, seed: int
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Metrics of one head on the test images of data set `name`, `iou/CLASS` among them, and its history."""
    group, folder = params.segment, Path("pretrained") / job
    prepared = f"prepared/segment/{name}/shards"
    crop_ratio = params.pretrain.crop_ratio
    identity = fingerprint(
        "stages.segment",
        params={"seed": seed, "head": head, "segment": group.model_dump(exclude={"heads"}), "crop_ratio": crop_ratio},
        compute=params.compute,
        inputs=[prepared, folder],
    )
    with Scratch(f"segment-{name}-{job}-{head}", identity) as scratch:
        shards = ImageShards(prepared, "train")
        window = params.pretrain.shuffle_images
        images = TrainingImages(shards, group.image_size, window=window, **runtime.reading)
        task = Segmentation(
            images,
            encoder_at(load_encoder(folder), group.image_size),
            group,
            head=head,
            num_classes=num_classes_of(shards),
            label=f"segment {name} {job} {head}",
            crop_ratio=crop_ratio,
            seed=seed,
            compute=compute,
        )
        history = train(task, scratch=scratch, runtime=runtime)
        test = WholeImages(ImageShards(prepared, "test"), group.image_size, workers=runtime.workers)
        confusion = task.confusion(test)
    by_class = {f"iou/{label}": value for label, value in class_iou(confusion).items()}
    return {**segmentation_metrics(confusion), **by_class}, history


if __name__ == "__main__":
    run(main)
