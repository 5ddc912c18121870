"""The teacher's attention, class tokens and patch tokens of encoded images, a shard at a time."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.cluster.work import Make
from parts.attention import extract_all
from shards.arrays import ArrayShardWriter
from shards.files import whole_folder
from shards.folders import bind_folders
from shards.image_shards import Shard
from shards.mask_cache import MaskCacheWriter
from training.compute import set_up
from training.teacher import ALL, TOKENS, FrozenTeacher

# The folder of raw masks, and rows of the files of the others: attention takes kilobytes an image, tokens a hundred times that.
RAW = "raw"
ATTENTION_ROWS, TOKEN_ROWS = 4096, 512
# Bound of ids below which every id is.
EVERY = 2**64
# Leading binary digits of the bound of ids below which patch tokens are stored.
BOUND_DIGITS = 3


class Extractor:
    """A frozen teacher on a device, the formats of the arrays taken from it, and the store for its attention, if any."""

    def __init__(self, teacher: str | Path, device: torch.device, *, token_layer: int, store: str = "") -> None:
        self.teacher, self.token_layer, self.store = FrozenTeacher(teacher, device), token_layer, store
        vit, grid = self.teacher.vit, self.teacher.grid
        # timm types a block as any module.
        attention: Any = vit.blocks[-1].attn
        heads, width, length = attention.num_heads, vit.embed_dim, grid[0] * grid[1]
        shared = self.teacher.header()
        self.header: dict[str, Any] = shared | {"num_heads": heads, "width": width, "token_layer": token_layer}
        self.labels: dict[str, Any] = shared | {
            "kind": "labels", "num_parts": heads, "background": None, "part_learner": "",
        }  # fmt: skip
        self.columns: dict[str, tuple[str, tuple[int, ...]]] = {
            "cls_attention": ("<f2", (heads, length)),
            "cls_token": ("<f2", (width,)),
            "cls_input": ("<f2", (width,)),
        }
        self.token_columns: dict[str, tuple[str, tuple[int, ...]]] = {"tokens": ("<f2", (length, width))}


def extract_shard(
    extractor: Extractor,
    image_shard: Shard,
    target: str | Path,
    tokens_below: int,
    *,
    batch_size: int,
    workers: int,
    prefetch: int,
) -> Iterator[int]:
    """Write the folder `target` of an image shard, and yield the number of images of each batch that is done.

    It holds the attention of `all` images, the patch `tokens` of the ids below `tokens_below` and the `raw` masks (the head that
    attends most to a patch), all in the order of the shard. The folder appears whole; `workers` and `prefetch`
    change no byte of it.
    """
    grid = extractor.teacher.grid
    with whole_folder(target) as folder:
        with (
            ArrayShardWriter(
                folder / ALL,
                columns=extractor.columns,
                header=extractor.header,
                shard_rows=ATTENTION_ROWS,
                store=extractor.store,
            ) as everything,
            ArrayShardWriter(
                folder / TOKENS, columns=extractor.token_columns, header=extractor.header, shard_rows=TOKEN_ROWS
            ) as tokens,
            MaskCacheWriter(folder / RAW, header=extractor.labels) as raw,
        ):
            for ids, images in extractor.teacher.batches(image_shard, batch_size, workers=workers, prefetch=prefetch):
                extracted = extract_all(extractor.teacher.vit, images, token_layer=extractor.token_layer)
                attention = extracted.cls_attention.cpu().numpy()
                everything.add(
                    ids,
                    cls_attention=attention,
                    cls_token=extracted.cls_token.cpu().numpy(),
                    cls_input=extracted.cls_input.cpu().numpy(),
                )
                kept = np.array([image_id < tokens_below for image_id in ids.tolist()])
                if kept.any():
                    tokens.add(ids[kept], tokens=extracted.patch_tokens.cpu().numpy()[kept])
                raw.add(ids, attention.argmax(axis=1).reshape(-1, *grid).astype(np.uint8))
                yield len(ids)
        bind_folders(folder, (ALL, TOKENS, RAW))


def extracting(
    *, teacher: str, token_layer: int, store: str, batch_size: int, compute: dict[str, Any], workers: int, prefetch: int
) -> Make:
    """`extract_shard` with a teacher that a worker loads once."""
    extractor = Extractor(teacher, set_up(**compute).device, token_layer=token_layer, store=store)
    return partial(extract_shard, extractor, batch_size=batch_size, workers=workers, prefetch=prefetch)


def token_bytes(teacher: str | Path) -> int:
    """Bytes of an image's patch tokens."""
    frozen = FrozenTeacher(teacher, torch.device("cpu"))
    return 2 * frozen.grid[0] * frozen.grid[1] * frozen.width


def token_bound(ids: np.ndarray, count: int) -> int:
    """A bound above the `count` smallest of ids (N,), ascending: patch tokens of the images below it are stored.

    Ids are hashes, so that any are drawn at random. With its few digits the bound stays where it is while a data set grows by a
    little, and with it every shard of tokens. The price: tokens of a quarter more images than part learning takes, at most.
    """
    if len(ids) <= count:
        return EVERY
    largest = int(ids[count - 1])
    step = 1 << max(0, largest.bit_length() - BOUND_DIGITS)
    return (largest // step + 1) * step
