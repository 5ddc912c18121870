"""A folder with the outs that the comparison reads, fabricated: tiny untrained models, made-up metrics."""

import io
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from config.arms import Arm
from config.presets import compose, write_params
from evaluation import protocols
from evaluation.predictions import Predictions, write_predictions
from evaluation.protocols import Source
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
from shards.mask_shards import MaskShardWriter
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
PROBE = Source("probe", "probe")
OWN = (PROBE, Source("finetune", "finetune"))
BIRDS, STREETS = Source("transfer/birds", "transfer", "birds/"), Source("segment/streets", "segment", "streets/")


# What a stage measures of every arm and seed, and facts of its test set.
FROZEN = {"knn_accuracy": 0.4, "knn_accuracy_k5": 0.45, "linear_accuracy": 0.5, "linear_class_accuracy": 0.55}
TUNED = {"finetune_accuracy": 0.7}
SEGMENTED = {"linear_miou": 0.2, "linear_pixel_accuracy": 0.6, "linear_iou/0": 0.7, "linear_iou/2": 0.1}
MEASURED = {
    "probe": FROZEN, "finetune": {**TUNED, "finetune_class_accuracy": 0.69}, "transfer": {**FROZEN, **TUNED},
    "segment": SEGMENTED,
}  # fmt: skip
# Of images without labels: nothing, masks, attributes.
WITHOUT_CLASSES = (
    {},
    {"dense_miou": 0.4, "dense_floor": 0.1, "dense_images": 7},
    {"attributes_accuracy": 0.5, "attributes_floor": 0.3, "attribute_mark_accuracy": 0.5, "attribute_mark_floor": 0.3},
)
FACTS = {"probe": {"penalty": 1.0, "rankme": 9.5}, "segment": {"floor_miou": 0.15, "floor_pixel_accuracy": 0.55}}
TEACHER = {
    "knn_accuracy": 0.52, "test_images": 12, "knn_accuracy_untrained": 0.31, "knn_accuracy_pixels": 0.2,
    "knn_above_pixels": 0.3, "knn_above_pixels_se": 0.05, "knn_above_untrained": 0.2, "knn_above_untrained_se": 0.05,
    "knn_above_images": 52,
}  # fmt: skip


def encoded(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, format="PNG")
    return out.getvalue()


def write_shards(folder, *, train=40, test=12, has_masks=True, classes=CLASSES):
    """Image shards of random blobs, without labels if there are no classes; returns the ids of all images."""
    rng = np.random.default_rng(0)
    ids = []
    with (
        ImageShardWriter(folder, classes=classes, shard_bytes=2**20) as writer,
        MaskShardWriter(folder.parent / "masks", shard_bytes=2**20) as masks,
    ):
        masks.labels = {value: value for value in range(4) if has_masks}
        for split, count in (("train", train), ("test", test)):
            for number in range(count):
                pixels = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
                mask = np.kron(rng.integers(0, 4, (4, 4)), np.ones((8, 8))).astype(np.uint8)
                ids.append(int(rng.integers(2**62)))
                writer.add(
                    split, image_id=ids[-1], label=number % 3 if classes else -1, sha256=bytes(32), image=encoded(pixels),
                    path=f"{split}/{number}.png",
                )  # fmt: skip
                if has_masks:
                    counts = np.bincount(mask.ravel(), minlength=256)
                    masks.add(split, image_id=ids[-1], mask=encoded(mask), path="m.png", pixels=counts)
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


def write_metrics_of(root, arms, seeds, *, sources=OWN, steps=30, test_images=12):
    """Metrics and histories of arms x seeds: every arm a little above the one before, seeds apart."""
    for place, arm in enumerate(arms):
        for seed in seeds:
            shift = 0.01 * place + 0.02 * math.sin(7 * seed + place)
            job = f"{arm}-{seed}"
            for source in sources:
                metrics = {
                    name: value if re.fullmatch(protocols.FACTS, name) else value + shift
                    for name, value in MEASURED[source.stage].items()
                }
                facts = {"test_images": test_images, **FACTS.get(source.stage, {})}
                write_json(root / "metrics" / source.folder / f"{job}.json", {**metrics, **facts})
                if source.has_predictions:
                    kept = [name for name in metrics if not name.startswith(("dense", "attribute"))]
                    write_predictions_of(root, source.folder, job, kept, place + seed, test_images)
            history = [{"step": n + 1, "loss": math.exp(-n / 9) + 0.4 + shift, "skipped": 0.0} for n in range(steps)]
            pretraining = [dict(row) for row in history]
            if arm != "mae":
                for n, row in enumerate(pretraining):
                    row |= {"alpha": (n / (steps - 1)) ** 2, "hidden_ratio_std": 0.05 + 0.35 * n / steps}
            for row in pretraining[3::4]:
                row |= {"knn_accuracy": 0.2 + 0.01 * row["step"] + shift, "rankme": 5.0 + row["step"]}
            losses = {"loss": history[-1]["loss"], "val_loss": 0.6 + shift}
            write_json(root / "metrics/pretrain" / f"{job}.json", {"images": 100, **losses})
            write_rows(root / "history/pretrain" / f"{job}.json", pretraining)
            if OWN[1] in sources:
                write_rows(root / "history/finetune" / f"{job}.json", history)
    has_labels = OWN[0] in sources
    counts = {"train_images": 40, "val_images": 4, "test_images": test_images}
    unlabelled = 0 if has_labels else sum(counts.values())
    write_json(root / "metrics/prepare_data.json", {**counts, "unlabelled_images": unlabelled})
    write_json(root / "metrics/train_teacher.json", TEACHER if has_labels else {})
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


def write_predictions_of(root, folder, job, names, seed, test_images):
    """Predictions of which some are right."""
    draw = np.random.default_rng(seed)
    ids, labels = np.arange(test_images, dtype=np.uint64), np.arange(test_images) % 3
    classes = {
        name: np.where(draw.random(test_images) < 0.6, labels, draw.integers(0, 3, test_images))
        for name in names
        if "class" not in name
    }
    write_predictions(root / "metrics/predictions" / folder / f"{job}.parquet", Predictions(ids, labels, classes))


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


def write_parameters(root):
    """The quickstart's, as far as a small comparison has them."""
    document = compose("quickstart")
    document["compare"].update({**{name: OPTIONS[name] for name in ("pictures", "mask_images")}, "resamples": 50})
    document["compute"].update({"threads": torch.get_num_threads(), "device": "cpu"})
    document["seeds"] = list(SEEDS)
    write_params(document, root / "params.yaml", preset="quickstart")


def write_outs(root, *, classes=CLASSES, sources=OWN):
    """All that a comparison reads, of images of these classes and judged by these sources."""
    write_parameters(root)
    ids = write_shards(root / "data/shards", classes=classes)
    write_labels(root / "masks/learned", ids, seed=1)
    write_labels(root / "arms/semmae", ids, seed=1)
    write_labels(root / "arms/raw_attention", ids, seed=2)
    write_no_masks(root / "arms/mae")
    write_metrics_of(root, ARMS, SEEDS, sources=sources)
    write_models(root, ARMS, SEEDS, MODEL)
    write_part_model(root)
    return root


@pytest.fixture(scope="session")
def outs(tmp_path_factory):
    """The folder; tests that change it take a copy."""
    return write_outs(tmp_path_factory.mktemp("outs"))


def results_of(scores, *, protocols=("finetune_accuracy", "linear_accuracy", "knn_accuracy"), test_images=400):
    """Results of arms whose protocols all have the same scores, a number a seed."""
    seen = {"test_images": test_images, "largest_class": 0.3, "chance": 0.25, "image": 1 / test_images}
    rows = [
        {"arm": arm, "seed": seed, "protocol": protocol, "value": value, **seen}
        for arm, values in scores.items()
        for protocol in protocols
        for seed, value in enumerate(values)
    ]
    nothing, seeds = pd.DataFrame(), range(len(next(iter(scores.values()))))
    return Results(
        list(scores),
        list(seeds),
        pd.DataFrame(rows),
        nothing,
        nothing,
        nothing,
        {},
        nothing,
        nothing,
        {},
        nothing,
        {},
        {},
        {},
    )


def material_of(root, *, arms=ARMS, seeds=SEEDS, part_truth=True, sources=OWN):
    results = read_results(root, arms=tuple(arms), seeds=seeds, part_truth=part_truth, sources=sources)
    rows = compare(results, baseline="mae", confidence=0.95, resamples=50)
    return gather(results, rows, baseline="mae", arms=arms, root=root, **OPTIONS)


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
