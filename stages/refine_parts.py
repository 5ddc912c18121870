"""Learn semantic parts from the attention and the tokens of the teacher."""

from functools import partial

from parts.labelling import label_patches
from parts.quality import position_information, usage
from pipeline.files import whole_folder, write_rows
from pipeline.fingerprint import fingerprint
from pipeline.image_shards import ImageShards
from pipeline.params import load_params, load_runtime
from pipeline.shards import ArrayShards
from pipeline.stage import run, write_metrics
from training.compute import set_up
from training.encoders import save_model
from training.loop import train
from training.refining import Refining, load_part_tokens
from training.scratch import Scratch
from training.teacher import FrozenTeacher


def main() -> None:
    """`python -m stages.refine_parts`."""
    params, runtime = load_params(), load_runtime()
    group = params.refine
    job = fingerprint(
        "stages.refine_parts",
        params={"refine": group.model_dump(), "compute": params.compute.model_dump()},
        inputs=["data/shards", "teacher", "attention/all", "attention/tokens"],
    )
    with Scratch("refine_parts", job) as scratch:
        compute = set_up(**params.compute.model_dump())
        teacher = FrozenTeacher("teacher", compute.device)
        data = load_part_tokens(
            ImageShards("data/shards", "train"),
            "attention",
            size=group.decoder_size,
            workers=runtime.workers,
        )
        token_layer = ArrayShards("attention/tokens").header["token_layer"]
        task = Refining(
            data,
            group,
            num_heads=teacher.vit.blocks[-1].attn.num_heads,
            last_block=teacher.vit.blocks[-1].state_dict(),
            features=partial(teacher.tokens, token_layer=token_layer) if group.perceptual_weight else None,
            compute=compute,
        )
        history = train(
            task.step,
            steps=task.steps,
            state={"model": task.model, "optimizer": task.optimizer},
            scratch=scratch,
            seed=group.seed,
            label="refine_parts",
            batch_size=group.batch_size,
            checkpoint_seconds=runtime.checkpoint_seconds,
            log_seconds=runtime.log_seconds,
        )
        maps = task.maps(group.batch_size)
        background = group.parts if group.background == "slot" else None
        labels = label_patches(maps, background="none" if background is None else "slot").numpy()
        inside = task.foreground.view(-1, *data.grid).numpy()
        with whole_folder("part_learner") as target:
            extra = {"token_layer": token_layer, "attention_mass": group.attention_mass}
            save_model(target, task.learner, {**task.config, **extra, "label_background": group.background})
        write_rows("history/refine_parts.json", history)
        measured = {**usage(labels, inside, group.parts), "position_information": position_information(labels)}
        final = {name: value for name, value in history[-1].items() if name.endswith("loss")}
        write_metrics("metrics/refine_parts.json", {**final, **measured, "images": len(data)})


if __name__ == "__main__":
    run(main)
