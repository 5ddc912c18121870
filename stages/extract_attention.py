"""Class-token attention of every image, and patch tokens of those that part learning trains on."""

import numpy as np

from parts.attention import extract_all
from pipeline.files import whole_folder
from pipeline.image_shards import ImageShards
from pipeline.params import load_params, load_runtime
from pipeline.shards import ArrayShardWriter, MaskCacheWriter
from pipeline.stage import Meter, run
from training.compute import set_up
from training.teacher import SPLITS, FrozenTeacher

# Images a shard: attention is some kilobytes an image, patch tokens some hundred.
ATTENTION_ROWS, TOKEN_ROWS = 4096, 512


def main() -> None:
    """`python -m stages.extract_attention`."""
    params, runtime = load_params(), load_runtime()
    compute = set_up(**params.compute.model_dump())
    teacher = FrozenTeacher("teacher", compute.device)
    heads, width, length = (
        teacher.vit.blocks[-1].attn.num_heads,
        teacher.vit.embed_dim,
        teacher.grid[0] * teacher.grid[1],
    )
    header = teacher.header() | {"num_heads": heads, "width": width, "token_layer": params.extract.token_layer}
    labels = teacher.header() | {"kind": "labels", "num_parts": heads, "background": None, "part_learner": ""}
    columns = {
        "cls_attention": ("<f2", (heads, length)),
        "cls_token": ("<f2", (width,)),
        "cls_input": ("<f2", (width,)),
    }
    wanted = np.sort(ImageShards("data/shards", "train").ids)[: params.extract.part_images]
    meter = Meter(sum(len(ImageShards("data/shards", split)) for split in SPLITS), label="extract_attention",
                  seconds=runtime.log_seconds)  # fmt: skip
    with (
        whole_folder("attention") as folder,
        ArrayShardWriter(
            folder / "all", columns=columns, header=header, shard_rows=ATTENTION_ROWS, store=params.data.store
        ) as everything,
        ArrayShardWriter(
            folder / "tokens", columns={"tokens": ("<f2", (length, width))}, header=header, shard_rows=TOKEN_ROWS
        ) as tokens,
        MaskCacheWriter("masks/raw", header=labels) as raw,
    ):
        for ids, images in teacher.batches("data/shards", params.extract.batch_size):
            found = extract_all(teacher.vit, images, token_layer=params.extract.token_layer)
            attention = found.cls_attention.cpu().numpy()
            everything.add(
                ids,
                cls_attention=attention,
                cls_token=found.cls_token.cpu().numpy(),
                cls_input=found.cls_input.cpu().numpy(),
            )
            kept = np.isin(ids, wanted)
            if kept.any():
                tokens.add(ids[kept], tokens=found.patch_tokens.cpu().numpy()[kept])
            raw.add(ids, attention.argmax(axis=1).reshape(-1, *teacher.grid).astype(np.uint8))
            meter.advance(len(ids))
    meter.close()


if __name__ == "__main__":
    run(main)
