"""Part quality of the part learner's choices, over seeds, on the test images of a finished run.

`python -m benchmarks.part_ablation [FOLDER] [--seeds 3] [--only NAME ...]`; FOLDER has params.yaml, data/shards and teacher/
(default: here). Each row changes the named parameter of the run and nothing else; all rows share one extraction.
"""

import argparse
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from config.groups import RefineParams
from config.params import load_params
from images.dataset import decoded_masks
from images.decoding import decode_square
from parts.attention import Extraction, extract_all
from parts.baselines import cluster_labels, random_labels
from parts.labelling import label_patches, majority_labels
from parts.quality import part_quality, position_information
from reports.statistics import estimate
from shards.image_shards import ImageShards
from stages.evaluate_parts import CELL, patch_colours
from training.compute import Compute, set_up
from training.refining import PartTokens, Refining, read_last_block
from training.teacher import FrozenTeacher

BATCH = 64
MEASURES = ("nmi_foreground", "ari_foreground", "nmi_foreground_per_image", "foreground_iou", "dead_parts")
Change = Mapping[str, Any]


def variants(base: RefineParams, heads: int, width: int) -> dict[str, tuple[int | None, Change]]:
    """Name -> (token layer, or None for the run's own; changes)."""
    as_heads = {"initialisation": "heads", "parts": heads, "token_width": width, "centre": False, "temperature": 1.0}
    return {
        "default": (None, {}),
        **{f"diversity {weight:g}": (None, {"diversity_weight": weight}) for weight in (0.0, 0.5, 2.0)},
        **{f"parts {count}": (None, {"parts": count}) for count in (4, 6, 8, 12) if count != base.parts},
        "start random": (None, {"initialisation": "random"}),
        "start heads": (1, as_heads),
        **{f"token layer {layer}": (layer, {}) for layer in range(4)},
        "normalised over space": (None, {"normalise": "space"}),
        "no centring": (None, {"centre": False}),
        "no blur": (None, {"blur_sigma": 0.0}),
        "background none": (None, {"background": "none", "slot_weight": 0.0}),
        "background attention_mass": (None, {"background": "attention_mass", "slot_weight": 0.0}),
        "foreground attention": (None, {"foreground": "attention"}),
        "foreground all": (None, {"foreground": "all"}),
        **{f"border ratio {ratio:g}": (None, {"border_ratio": ratio}) for ratio in (1.0, 0.75, 0.5, 0.35)},
        **{f"tokens pooled over {pool}": (None, {"token_pooling": pool}) for pool in ("image", "batch")},
        "no token loss": (None, {"token_weight": 0.0}),
        "no reconstruction": (None, {"reconstruction_weight": 0.0}),
        "no usage balance": (None, {"usage_weight": 0.0}),
        "paper's losses alone": (None, {"token_weight": 0.0, "usage_weight": 0.0, "foreground": "all"}),
        "perceptual 1": (None, {"perceptual": "teacher"}),
        "equivariance 1": (None, {"equivariance_weight": 1.0}),
    }


class World:
    """Images of the run in the working directory, their true parts, and the teacher's tokens, extracted once a layer."""

    def __init__(self) -> None:
        self.params = load_params()
        self.compute: Compute = set_up(**self.params.compute.model_dump())
        self.teacher = FrozenTeacher("teacher", self.compute.device)
        self.train, self.test = (ImageShards("data/shards", split) for split in ("train", "test"))
        kept = np.sort(self.train.ids)[: self.params.extract.part_images]
        self.train_rows = np.flatnonzero(np.isin(self.train.ids, kept))
        self.test_rows = np.arange(len(self.test))
        grid = self.teacher.grid
        self.truth = majority_labels(decoded_masks(self.test, self.test_rows, max(grid) * CELL), grid)
        self.cells = {
            split: patch_colours(shards, rows, grid)
            for split, shards, rows in (("train", self.train, self.train_rows), ("test", self.test, self.test_rows))
        }
        self._extracted: dict[tuple[str, int], Extraction] = {}

    def extracted(self, split: str, layer: int) -> Extraction:
        """The teacher's tokens and attention of a split, tokens as the cache stores them (fp16)."""
        if (split, layer) not in self._extracted:
            shards, rows = (self.train, self.train_rows) if split == "train" else (self.test, self.test_rows)
            batches = []
            for start in range(0, len(rows), BATCH):
                images = self.teacher.inputs([shards.bytes(row) for row in rows[start : start + BATCH]])
                batches.append(extract_all(self.teacher.vit, images, token_layer=layer))
            whole = Extraction(*(torch.cat(values) for values in zip(*batches, strict=True)))
            self._extracted[split, layer] = whole._replace(patch_tokens=whole.patch_tokens.half())
        return self._extracted[split, layer]

    def pixels(self, size: int) -> torch.Tensor:
        """Training images (N, 3, size, size) uint8."""
        images = np.stack([decode_square(self.train.bytes(int(row)), size) for row in self.train_rows])
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def learned(self, layer: int | None, change: Change, seed: int) -> dict[str, float]:
        """Quality on test of a part learner trained with `change`."""
        layer = self.params.extract.token_layer if layer is None else layer
        group = RefineParams(**{**self.params.refine.model_dump(), **change, "seed": seed})
        train = self.extracted("train", layer)
        data = PartTokens(
            tokens=train.patch_tokens,
            cls_tokens=train.cls_input,
            cls_attention=train.cls_attention,
            pixels=self.pixels(group.decoder_size),
            grid=self.teacher.grid,
            token_layer=layer,
        )
        block = read_last_block("teacher") if group.initialisation == "heads" else {}
        features = partial(self.teacher.tokens, token_layer=layer)
        task = Refining(data, group, last_block=block, features=features, compute=self.compute)
        for number in range(task.steps):
            task.step(number)
        test = self.extracted("test", layer)
        with torch.no_grad():
            maps = task.learner(test.cls_input, test.patch_tokens.float())
        labels = label_patches(
            maps, background=group.background, cls_attention=test.cls_attention, mass=group.attention_mass
        ).numpy()
        return self.quality(labels, group.parts, None if group.background == "none" else group.parts)

    def trivial(self, seed: int) -> dict[str, dict[str, float]]:
        """Quality of the baselines, with as many parts as the run's."""
        parts, layer = self.params.refine.parts, self.params.extract.token_layer
        height, width = self.teacher.grid
        places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1).astype(np.float32)
        everywhere = np.broadcast_to(places, (len(self.test_rows), *places.shape))
        tokens = [
            self.extracted(split, layer)
            .patch_tokens.float()
            .numpy()
            .reshape(-1, height, width, self.teacher.vit.embed_dim)
            for split in ("train", "test")
        ]
        few = slice(0, max(1, 20_000 // (height * width)))
        attention = self.extracted("test", layer).cls_attention
        labels = {
            "raw heads": attention.argmax(dim=1).view(-1, height, width).numpy(),
            "k-means on tokens": cluster_labels(tokens[0][few], tokens[1], parts, seed=seed),
            "colour clusters": cluster_labels(self.cells["train"][few], self.cells["test"], parts, seed=seed),
            "x-y clusters": cluster_labels(places[None], everywhere, parts, seed=seed),
            "random": random_labels(self.truth.shape, parts, seed=seed),
        }
        return {name: self.quality(values, max(parts, attention.shape[1]), None) for name, values in labels.items()}

    def quality(self, labels: np.ndarray, parts: int, background: int | None) -> dict[str, float]:
        """All measures of labels (N, gh, gw) of the test images."""
        measures = part_quality(labels, self.truth, num_parts=parts, background=background)
        return {**measures, "position_information": position_information(labels)}


def main() -> None:
    """Print one row a variant: mean ± standard error over seeds, and the worst seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path())
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    chosen = parser.parse_args()
    os.chdir(chosen.folder)
    world = World()
    console = Console(width=140)
    attention: Any = world.teacher.vit.blocks[-1].attn
    heads, width = attention.num_heads, world.teacher.vit.embed_dim
    table = Table(box=box.MARKDOWN)
    for name in ("parts from", *MEASURES, "worst nmi_foreground"):
        table.add_column(name)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(chosen.seeds):
        for name, quality in world.trivial(seed).items():
            rows.setdefault(name, []).append(quality)
    known = variants(world.params.refine, heads, width)
    for name, (layer, change) in known.items():
        if chosen.only and name not in chosen.only:
            continue
        rows[name] = [world.learned(layer, change, seed) for seed in range(chosen.seeds)]
        console.print(name, [round(quality["nmi_foreground"], 3) for quality in rows[name]], highlight=False)
    for name, found in rows.items():
        over = estimate(pd.DataFrame(found)[list(MEASURES)].T, confidence=0.95)
        cells = [
            f"{mean:.2f}" if np.isnan(se) else f"{mean:.2f} ± {se:.2f}"
            for mean, se in over[["mean", "se"]].to_numpy(float)
        ]
        table.add_row(name, *cells, f"{min(quality['nmi_foreground'] for quality in found):.2f}")
    console.print(f"{len(world.test_rows)} test images, {chosen.seeds} seeds")
    console.print(table)


if __name__ == "__main__":
    main()
