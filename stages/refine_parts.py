"""Learn semantic parts from the attention and the tokens of the teacher."""

from collections.abc import Callable
from functools import partial

from config.groups import RefineParams
from config.params import load_params, load_runtime
from jobs.fingerprint import fingerprint
from jobs.metrics import write_metrics
from jobs.progress import Meter
from jobs.scratch import Scratch
from jobs.stage import run
from parts.labelling import label_patches
from parts.quality import position_information, usage
from shards.files import whole_folder, write_rows
from shards.image_shards import ImageShards
from training.compute import Compute, set_up
from training.encoders import save_model
from training.loop import fitted, train
from training.refining import Features, Refining, load_part_tokens, read_last_block


def main() -> None:
    """`python -m stages.refine_parts`."""
    params, runtime = load_params(), load_runtime()
    group = params.refine
    job = fingerprint(
        "stages.refine_parts",
        params={"refine": group.model_dump(), "part_images": params.extract.part_images},
        compute=params.compute,
        inputs=["data/shards", "teacher", "attention/all", "attention/tokens"],
    )
    with Scratch("refine_parts", job) as scratch:
        compute = set_up(**params.compute.model_dump())
        shards = ImageShards("data/shards", "train")
        most = min(params.extract.part_images, len(shards))
        meter = partial(Meter, most, seconds=runtime.log_seconds)
        with meter(label="refine_parts: tokens and images") as reading:
            data = load_part_tokens(
                shards,
                "attention",
                most=most,
                size=group.decoder_size,
                workers=runtime.workers,
                ram_gib=runtime.ram_gib,
                advance=reading.advance,
            )
        with meter(label="refine_parts: foreground") as starting:
            task = Refining(
                data,
                fitted(group, most, label="refine_parts"),
                last_block=read_last_block("teacher") if group.initialisation == "heads" else {},
                features=teacher_features(data.token_layer, compute) if needs_teacher(group) else None,
                compute=compute,
                advance=starting.advance,
            )
        history = train(task, scratch=scratch, runtime=runtime)
        with whole_folder("part_learner") as target:
            options = {"label_background": group.background, "attention_mass": group.attention_mass}
            if task.decodes:
                (target / "decoder").mkdir()
                save_model(target / "decoder", task.decoder, task.decoder_config)
            save_model(target, task.learner, {**task.config, **options, "token_layer": data.token_layer})
        write_rows("history/refine_parts.json", history)
        with meter(label="refine_parts: parts of the training images") as labelling:
            metrics = summary(task, history, labelling.advance)
        write_metrics("metrics/refine_parts.json", metrics)


def needs_teacher(group: RefineParams) -> bool:
    """Whether a loss passes images through the teacher; else nothing loads timm."""
    return group.perceptual == "teacher" or group.equivariance_weight > 0


def teacher_features(token_layer: int, compute: Compute) -> Features:
    """The frozen teacher's tokens of images in [0, 1]."""
    from training.teacher import FrozenTeacher

    return partial(FrozenTeacher("teacher", compute.device).tokens, token_layer=token_layer)


def summary(task: Refining, history: list[dict[str, float]], advance: Callable[[int], object]) -> dict[str, float]:
    """The last losses, and the guards against parts that died, took all or tile the image, on the training images."""
    maps = task.maps(task.group.batch_size, advance)
    labels = label_patches(maps, background="slot" if task.group.background == "slot" else "none").numpy()
    foreground = task.foreground.view(labels.shape).numpy()
    return {
        **{name: value for name, value in history[-1].items() if name.endswith("loss")},
        **usage(labels, foreground, task.group.parts),
        "position_information": position_information(labels),
        "foreground_share": float(foreground.mean()),
        "images": len(labels),
    }


if __name__ == "__main__":
    run(main)
