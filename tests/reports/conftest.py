"""A folder with the outs that the comparison reads, fabricated: tiny untrained models, made-up metrics."""

import io
import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from config.arms import Arm
from evaluation.predictions import Predictions, write_predictions
from models.mae import MaskedAutoencoder
from models.part_decoder import PartDecoder
from models.part_learner import PartLearner
from models.teachers import build
from models.vit import initialise
from parts.masking import random_mask
from reports import figures, layout
from reports.comparison import compare
from reports.material import gather, sheets
from reports.page import render
from reports.results import Results, read_results
from shards.arrays import VERSION
from shards.files import write_json, write_rows
from shards.image_shard_writer import ImageShardWriter
from shards.mask_cache import MaskCacheWriter
from shards.seals import MANIFEST, write_sealed
from training.encoders import save_model
from training.snapshots import Snapshots
from training.teacher import write_teacher

ARMS = {
    "semmae": Arm(mask="parts", parts="learned", schedule="intra_to_inter", gamma=2.0, background="part"),
    "mae": Arm(mask="random", parts="none", schedule="intra_to_inter", gamma=2.0, background="part"),
    "raw_attention": Arm(mask="parts", parts="raw", schedule="intra_to_inter", gamma=2.0, background="part"),
}
SEEDS = (0, 1)
MODEL = {
    "image_size": 32, "patch_size": 4, "width": 16, "depth": 1, "num_heads": 2, "decoder_width": 16,
    "decoder_depth": 1, "decoder_num_heads": 2, "norm_pix_loss": True,
}  # fmt: skip
OPTIONS = {"ratio": 0.75, "hint_share": 0.1, "pictures": 3, "mask_images": 30, "device": torch.device("cpu")}
GRID, PARTS, CLASSES = (8, 8), 4, ["ant", "bee", "<cat & co>"]


def encoded(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, format="PNG")
    return out.getvalue()


def write_shards(folder, *, train=40, test=12, has_masks=True):
    """Image shards of random blobs; returns the ids of all images."""
    rng = np.random.default_rng(0)
    ids = []
    with ImageShardWriter(folder, classes=CLASSES, has_masks=has_masks, shard_bytes=2**20) as writer:
        for split, count in (("train", train), ("test", test)):
            for number in range(count):
                pixels = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
                mask = np.kron(rng.integers(0, 4, (4, 4)), np.ones((8, 8))).astype(np.uint8)
                ids.append(int(rng.integers(2**62)))
                extra = {"mask": encoded(mask), "mask_path": "m.png", "max_part_label": 3} if has_masks else {}
                writer.add(
                    split, image_id=ids[-1], label=number % 3, sha256=bytes(32), image=encoded(pixels),
                    path=f"{split}/{number}.png", **extra,
                )  # fmt: skip
    return np.array(ids, dtype=np.uint64)


def write_labels(folder, ids, seed, labels=None):
    """Part labels of `ids` in quadrant-like regions, or `labels` (N, gh, gw)."""
    header = {
        "grid": list(GRID), "patch_size": 4, "num_parts": PARTS, "background": PARTS, "kind": "labels",
        "teacher": "t", "part_learner": "p",
    }  # fmt: skip
    if labels is None:
        coarse = np.random.default_rng(seed).integers(0, PARTS + 1, (len(ids), 4, 4))
        labels = np.kron(coarse, np.ones((1, 2, 2))).astype(np.uint8)
    with MaskCacheWriter(folder, header=header, shard_rows=1000) as writer:
        writer.add(ids, labels)


def write_no_masks(folder):
    """What select_masks leaves for an arm with random masks."""
    write_sealed(folder / MANIFEST, {"version": VERSION, "header": {"kind": "none"}, "shards": []})


def write_metrics_of(root, arms, seeds, *, steps=30, test_images=12):
    """Metrics and histories of arms x seeds: every arm a little above the one before, seeds apart."""
    for place, arm in enumerate(arms):
        for seed in seeds:
            shift = 0.01 * place + 0.02 * math.sin(7 * seed + place)
            score = {"test_images": test_images}
            names = ("knn_accuracy", "knn_accuracy_k5", "linear_accuracy", "linear_class_accuracy")
            probe = {**score, "penalty": 1.0, **{name: 0.4 + 0.05 * n + shift for n, name in enumerate(names)}}
            finetune = {**score, "finetune_accuracy": 0.7 + shift, "finetune_class_accuracy": 0.69 + shift}
            history = [{"step": n + 1, "loss": math.exp(-n / 9) + 0.4 + shift, "skipped": 0.0} for n in range(steps)]
            pretraining = [dict(row) for row in history]
            if arm != "mae":
                for n, row in enumerate(pretraining):
                    row |= {"alpha": (n / (steps - 1)) ** 2, "hidden_ratio_std": 0.05 + 0.35 * n / steps}
            job = f"{arm}-{seed}.json"
            write_predictions_of(root, f"{arm}-{seed}", place + seed, test_images)
            write_json(root / "metrics/probe" / job, probe)
            write_json(root / "metrics/finetune" / job, finetune)
            write_json(root / "metrics/pretrain" / job, {"images": 100, "loss": history[-1]["loss"]})
            write_rows(root / "history/pretrain" / job, pretraining)
            write_rows(root / "history/finetune" / job, history)
    write_json(root / "metrics/prepare_data.json", {"train_images": 40, "val_images": 0, "test_images": test_images})
    teacher = {"knn_accuracy": 0.52, "knn_accuracy_untrained": 0.31, "knn_accuracy_pixels": 0.2}
    write_json(root / "metrics/train_teacher.json", teacher)
    write_json(root / "metrics/refine_parts.json", {"loss": 1.25, "diversity": 0.1})
    for name in ("class", "token"):
        history = [{"step": n + 1, "loss": 2.0, f"{name}_loss": 1 / (n + 1), "usage_loss": 0.0} for n in range(steps)]
        write_rows(root / "history" / f"{'train_teacher' if name == 'class' else 'refine_parts'}.json", history)
    quality = {
        f"{method}/{measure}": value
        for method, value in {"learned": 0.3, "raw": 0.16, "xy": 0.19, "random": 0.02}.items()
        for measure in ("nmi_foreground", "nmi_foreground_per_image", "miou", "dead_parts")
    }
    write_json(root / "metrics/evaluate_parts.json", quality)


def write_predictions_of(root, job, seed, test_images):
    """Predictions of which some are right."""
    draw = np.random.default_rng(seed)
    ids, labels = np.arange(test_images, dtype=np.uint64), np.arange(test_images) % 3
    said = {
        "probe": ("knn_accuracy", "knn_accuracy_k5", "linear_accuracy"), "finetune": ("finetune_accuracy",),
    }  # fmt: skip
    for stage, names in said.items():
        classes = {
            name: np.where(draw.random(test_images) < 0.6, labels, draw.integers(0, 3, test_images)) for name in names
        }
        write_predictions(root / "predictions" / stage / f"{job}.parquet", Predictions(ids, labels, classes))


def write_models(root, arms, seeds, config):
    """An untrained masked autoencoder a job."""
    for arm in arms:
        for seed in seeds:
            model = MaskedAutoencoder(**config)
            initialise(model, torch.Generator().manual_seed(seed))
            folder = root / "pretrained" / f"{arm}-{seed}"
            folder.mkdir(parents=True)
            length = model.num_patches
            mask = random_mask(2, length, ratio=0.75, generator=torch.Generator().manual_seed(0))
            snapshots = Snapshots(torch.randn(2, 3, *model.image_size), mask, steps=0)
            snapshots.take(0, model)
            snapshots.write(folder)
            save_model(folder, model, config)


def write_part_model(root, *, background="slot", decodes=True):
    """An untrained teacher of 3 heads, and an untrained part learner with decoder on top."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 3}
        half = (0.5, 0.5, 0.5)
        write_teacher(root / "teacher", build(architecture), architecture, source="train", mean=half, std=half)
        config = {
            "grid": list(GRID), "width": 24, "num_parts": PARTS, "token_width": 8, "background": background == "slot",
            "temperature": 0.2,
        }  # fmt: skip
        learner = PartLearner(**config)
        decoder_config = {
            "num_maps": learner.num_maps, "style_width": 24, "grid": list(GRID), "image_size": [16, 16], "width": 8
        }  # fmt: skip
        labelling = {"token_layer": 1, "attention_mass": 0.6, "label_background": background}
        (root / "part_learner").mkdir(parents=True)
        if decodes:
            (root / "part_learner" / "decoder").mkdir()
            save_model(root / "part_learner" / "decoder", PartDecoder(**decoder_config), decoder_config)
        save_model(root / "part_learner", learner, {**config, **labelling})


@pytest.fixture(scope="session", autouse=True)
def coarse_charts():
    """Charts of few pixels: drawing them is most of a report's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", 40)
        patch.setattr(layout, "DPI", 40)
        yield


@pytest.fixture(scope="session")
def outs(tmp_path_factory):
    """The folder; tests that change it take a copy."""
    root = tmp_path_factory.mktemp("outs")
    ids = write_shards(root / "data/shards")
    write_labels(root / "masks/learned", ids, seed=1)
    write_labels(root / "arms/semmae", ids, seed=1)
    write_labels(root / "arms/raw_attention", ids, seed=2)
    write_no_masks(root / "arms/mae")
    write_metrics_of(root, ARMS, SEEDS)
    write_models(root, ARMS, SEEDS, MODEL)
    write_part_model(root)
    return root


def results_of(scores, *, protocols=("finetune_accuracy", "linear_accuracy", "knn_accuracy"), test_images=400):
    """Results of arms whose protocols all have the same scores, a number a seed."""
    rows = [
        {"arm": arm, "seed": seed, "protocol": protocol, "value": value, "test_images": test_images}
        for arm, values in scores.items()
        for protocol in protocols
        for seed, value in enumerate(values)
    ]
    nothing = pd.DataFrame()
    return Results(pd.DataFrame(rows), nothing, nothing, nothing, {}, {}, nothing, {}, {}, {})


def material_of(root, *, arms=ARMS, seeds=SEEDS, part_truth=True):
    results = read_results(root, arms=tuple(arms), seeds=seeds, part_truth=part_truth)
    rows = compare(results, baseline="mae", confidence=0.95, resamples=50)
    return gather(results, rows, arms=arms, root=root, **OPTIONS)


@pytest.fixture(scope="session")
def material(outs):
    """What the report of the whole folder shows: drawn once, looked at by many tests."""
    return material_of(outs)


@pytest.fixture(scope="session")
def html(material):
    return render(material)


@pytest.fixture(scope="session")
def files(material):
    return sheets(material)
