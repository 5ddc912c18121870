"""What the product keeps on disk: how each thing is written and read, by the product's own functions, and damage to it."""

import contextlib
import hashlib
import json
import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from config.params import load_params
from config.presets import compose, write_params
from evaluation.predictions import Predictions, read_predictions, write_predictions
from images.sources.preparation import write_rejected
from jobs.kept_shards import KeptShards
from jobs.metrics import write_metrics
from jobs.notes import read_note, write_note
from jobs.record import note_written
from jobs.recorded import check_recorded
from jobs.scratch import Scratch
from models.teachers import build
from shards.arrays import ArrayShards, ArrayShardWriter
from shards.files import read_json, whole_file, whole_folder, write_rows, write_text
from shards.image_shard_writer import ImageShardWriter
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache, MaskCacheWriter
from shards.mask_shards import MaskShards, MaskShardWriter
from shards.row_index import SPLITS
from stages.prepare_data import read_order, write_order
from training.encoders import load_weights, save_model
from training.snapshots import Snapshots, read_snapshots
from training.teacher import FrozenTeacher, write_teacher

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2, "class_token": True}
MASKS = {
    "grid": [4, 4],
    "patch_size": 8,
    "num_parts": 6,
    "background": 6,
    "kind": "labels",
    "teacher": "t",
    "part_learner": "p",
}
DOCUMENT = compose("quickstart")
JOB, FINGERPRINT, KEY = "pretrain-mae-0", "f" * 32, "0" * 64


def draw(version):
    return np.random.default_rng({"old": 0, "new": 1}[version])


def write_images(version):
    values = draw(version)
    with ImageShardWriter("data/shards", classes=["a", "b"], shard_bytes=1200) as writer:
        for number, split in enumerate(np.repeat(SPLITS, (7, 2, 3))):
            image = values.bytes(400)
            digest = hashlib.sha256(image).digest()
            writer.add(str(split), image_id=int.from_bytes(digest[:8], "big"), label=number % 2, sha256=digest, image=image,
                       path=f"{number}.png")  # fmt: skip


def read_images():
    found = []
    for split in SPLITS:
        shards = ImageShards("data/shards", split)
        found.append(shards.manifest)
        for row, image_id in enumerate(shards.ids):
            found.append((int(image_id), int(shards.labels[row]), shards.bytes(row)))
    return found


def write_true_masks(version):
    values = draw(version)
    with MaskShardWriter("data/masks", shard_bytes=400) as writer:
        for split in np.repeat(SPLITS, (7, 2, 3)):
            mask, pixels = values.bytes(90), np.bincount(values.integers(0, 4, 64), minlength=256)
            writer.add(str(split), image_id=int.from_bytes(mask[:8], "big"), mask=mask, path="m.png", pixels=pixels)
        writer.labels = {0: 0, 1: 1, 2: 255, 3: 1}


def read_true_masks():
    found = []
    for split in SPLITS:
        masks = MaskShards("data/masks", split)
        found += [masks.labels.tolist(), masks.pixels.tolist(), masks.labelled_ids.tolist()]
        found += [(image_id, masks.bytes(image_id)) for image_id in masks.ids.tolist()]
    return found


def write_tokens(version):
    values = draw(version)
    with ArrayShardWriter(
        "attention", columns={"tokens": ("<f2", (4, 6))}, header={"grid": [2, 2]}, shard_rows=8
    ) as writer:
        writer.add(values.permutation(20).astype(np.uint64), tokens=values.normal(size=(20, 4, 6)))


def read_tokens():
    shards = ArrayShards("attention")
    return [shards.header, shards.ids.tolist(), shards.rows(shards.ids, "tokens").tobytes()]


def write_masks(version, folder="masks"):
    values = draw(version)
    with MaskCacheWriter(folder, header=MASKS, shard_rows=8) as writer:
        writer.add(values.permutation(20).astype(np.uint64), values.integers(0, 7, (20, 4, 4)))


def read_masks(folder="masks"):
    cache = MaskCache(folder)
    return [cache.header, cache.ids.tolist(), cache.rows(cache.ids).tobytes()]


def write_kept(version):
    with KeptShards("cache_masks", FINGERPRINT) as kept:
        write_masks(version, kept.place(KEY))


def read_kept():
    with KeptShards("cache_masks", FINGERPRINT) as kept:
        if not kept.has(KEY):
            raise Recomputed
        return read_masks(kept.place(KEY))


class Recomputed(Exception):
    """The product sees that the thing is not to be used, and makes it again."""


def write_own_teacher(version):
    torch.manual_seed({"old": 0, "new": 1}[version])
    write_teacher(Path("teacher"), build(VIT), VIT, source=version, mean=(0.5,) * 3, std=(0.2,) * 3)


def read_own_teacher():
    teacher = FrozenTeacher("teacher", torch.device("cpu"))
    return [teacher.config, contents(teacher.vit.state_dict())]


def contents(state):
    return [
        (name, str(value.dtype), list(value.shape), value.numpy().tobytes()) for name, value in sorted(state.items())
    ]


def write_weights(version):
    torch.manual_seed({"old": 0, "new": 1}[version])
    with whole_folder("pretrained/mae-0") as folder:
        Snapshots(torch.randn(2, 3, 8, 8), torch.rand(2, 4) > 0.5, steps=10).write(folder)
        save_model(folder, torch.nn.Linear(70, 50), {"width": 70, "name": version})


def read_weights():
    state, config = load_weights("pretrained/mae-0")
    return [contents(state), config, contents(read_snapshots(Path("pretrained/mae-0")))]


def write_parts(version):
    torch.manual_seed({"old": 0, "new": 1}[version])
    with whole_folder("part_learner") as folder:
        (folder / "decoder").mkdir()
        save_model(folder / "decoder", torch.nn.Linear(3, 2), {"decoder": version})
        save_model(folder, torch.nn.Linear(5, 4), {"parts": version})


def read_parts():
    found = [load_weights(folder) for folder in ("part_learner", "part_learner/decoder")]
    return [(contents(state), config) for state, config in found]


def state_of(version):
    torch.manual_seed({"old": 0, "new": 1}[version])
    return {"step": 3 if version == "old" else 4, "history": [{"loss": 0.5}], "state": {"weight": torch.randn(40, 3)}}


def write_checkpoint(version):
    scratch = Scratch(JOB, FINGERPRINT)
    scratch.save(state_of(version))


def read_checkpoint():
    found = Scratch(JOB, FINGERPRINT).load()
    if found is None:
        raise Recomputed
    return [found["step"], found["history"], contents(found["state"])]


def write_history(version):
    write_rows("history/pretrain/mae-0.json", [{"step": step, "loss": draw(version).uniform()} for step in range(1, 4)])
    note_written()


def write_numbers(version, path="metrics/probe/mae-0.json"):
    write_metrics(path, {"accuracy": draw(version).uniform(), "test_images": 30})
    note_written()


def read_result(path):
    check_recorded(path)
    return read_json(path)


def write_said(version):
    values = draw(version)
    said = {"knn_accuracy": values.integers(0, 5, 30), "linear_accuracy": values.integers(0, 5, 30)}
    write_predictions(
        Path("predictions/mae-0.parquet"), Predictions(np.arange(30, dtype=np.uint64), values.integers(0, 5, 30), said)
    )
    note_written()


def read_said():
    check_recorded("predictions")
    found = read_predictions(Path("predictions/mae-0.parquet"))
    return [found.ids.tolist(), found.labels.tolist(), {name: value.tolist() for name, value in found.classes.items()}]


def write_refused(version):
    write_rejected("data/rejected.parquet", [(f"{version}.png", "train", "a", "truncated", "at 3 bytes")])
    note_written()


def read_refused():
    check_recorded("data/rejected.parquet")
    return pq.read_table("data/rejected.parquet").to_pylist()


def write_figures(version):
    with whole_folder("report/figures") as folder:
        for name in "ab":
            with whole_file(folder / f"{name}.png") as file:
                file.write(draw(version).bytes(300))


def read_figures():
    if not Path("report/figures").is_dir():
        raise Recomputed
    return [path.read_bytes() for path in sorted(Path("report/figures").iterdir())]


def write_table(version):
    write_text("report/comparison.csv", version * 50)
    note_written()


def read_table():
    check_recorded("report/comparison.csv")
    return Path("report/comparison.csv").read_text()


def write_parameters(version):
    DOCUMENT["seeds"] = [0] if version == "old" else [1]
    write_params(DOCUMENT, "params.yaml")


def write_ids(version):
    write_order(Path(".semmae/order/o.npy"), draw(version).permutation(30).tolist())


def read_ids():
    found = read_order(Path(".semmae/order/o.npy"))
    if not found:
        raise Recomputed
    return found


def write_noted(version):
    write_note(NOTE, {"status": "FINISHED", "seconds": draw(version).uniform()})


def read_noted():
    found = read_note(NOTE)
    if not found:
        raise Recomputed
    return found


@dataclass(frozen=True)
class Artefact:
    """place: what is written. read: the content as the product sees it, ValueError where it refuses it."""

    place: str
    write: object
    read: object
    # Whether every bit is vouched for, so that any that is flipped must be noticed.
    is_sealed: bool = True


NOTE = ".semmae/records/pretrain-mae-0.json"
METRICS, HISTORY = "metrics/probe/mae-0.json", "history/pretrain/mae-0.json"
ARTEFACTS = {
    "image shards": Artefact("data/shards", write_images, read_images),
    "masks of the data": Artefact("data/masks", write_true_masks, read_true_masks),
    "attention and tokens": Artefact("attention", write_tokens, read_tokens),
    "mask cache": Artefact("masks", write_masks, read_masks),
    "kept shards": Artefact(f".semmae/shards/cache_masks/{FINGERPRINT}/{KEY}", write_kept, read_kept),
    "teacher": Artefact("teacher", write_own_teacher, read_own_teacher),
    "part learner": Artefact("part_learner", write_parts, read_parts),
    "pretrained weights": Artefact("pretrained/mae-0", write_weights, read_weights),
    "checkpoint": Artefact(f".semmae/scratch/{JOB}/{FINGERPRINT}/checkpoint.pt", write_checkpoint, read_checkpoint),
    "history": Artefact(HISTORY, write_history, partial(read_result, HISTORY)),
    "metrics": Artefact(METRICS, write_numbers, partial(read_result, METRICS)),
    "predictions": Artefact("predictions/mae-0.parquet", write_said, read_said),
    "list of refused images": Artefact("data/rejected.parquet", write_refused, read_refused),
    "figures": Artefact("report/figures", write_figures, read_figures, is_sealed=False),
    "comparison table": Artefact("report/comparison.csv", write_table, read_table),
    "params.yaml": Artefact("params.yaml", write_parameters, lambda: load_params().model_dump(), is_sealed=False),
    "state files": Artefact(NOTE, write_noted, read_noted),
    "order of images": Artefact(".semmae/order/o.npy", write_ids, read_ids),
}


def write(name, version):
    """Called in a process of its own, which a fault may end."""
    ARTEFACTS[name].write(version)


def state(name):
    """What the product makes of a thing: (`absent`, `refused`, `recomputed` or `read`, digest or reason)."""
    artefact = ARTEFACTS[name]
    if not Path(artefact.place).exists():
        with contextlib.suppress(Recomputed, ValueError):
            return "read", digest(artefact.read())
        return "absent", ""
    try:
        return "read", digest(artefact.read())
    except Recomputed:
        return "recomputed", ""
    except ValueError as error:
        return "refused", str(error)


def digest(content):
    return hashlib.sha256(repr(content).encode()).hexdigest()


def look(name):
    """What the product makes of a thing, and again after it was written anew."""
    before = state(name)
    write(name, "new")
    print(json.dumps([before, state(name)]))


def files_of(name):
    place = Path(ARTEFACTS[name].place)
    return sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]


def damage(name, kind, count):
    """Damage every file in turn in `count` ways of a kind (0: all), look what the product makes of it, and put it back.

    Prints how often it did what, and the cases that it did not notice or did not name.
    """
    whole = state(name)
    assert whole[0] == "read", whole
    told = {"cases": 0, "silent": [], "unnamed": []}
    for path in files_of(name):
        data = path.read_bytes()
        for where in places_of(kind, len(data), count, f"{name} {path}"):
            spoil(path, kind, where)
            told["cases"] += 1
            try:
                found = state(name)
            except Exception as error:
                found = "raised", f"{type(error).__name__}: {error}"
            if found[0] == "raised" or (found[0] == "refused" and not names(found[1], path)):
                told["unnamed"].append([str(path), where, *found])
            elif found[0] == "read" and found != whole:
                told["silent"].append([str(path), where])
            outcome = "unharmed" if found == whole else found[0]
            told[outcome] = told.get(outcome, 0) + 1
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.write_bytes(data)
    print(json.dumps(told))


def names(text, path):
    """Whether a line names the file, or the folder whose manifest it belongs to."""
    return any(str(place) in text for place in (path, *path.parents) if place != Path())


KINDS = {"truncated": "truncated", "flipped": "one bit flipped", "emptied": "emptied", "deleted": "deleted"}


def places_of(kind, size, count, key):
    draw = random.Random(key)
    if kind == "flipped":
        bits = range(8 * size)
        return (
            bits
            if not count
            else sorted({draw.choice(bits[: min(size, 64) * 8]), *draw.choices(bits, k=count), bits[-1]})
        )
    if kind == "truncated":
        return range(size) if not count else sorted({*draw.choices(range(size), k=count), size - 1})
    return [0]


def damaged(data, kind, where):
    if kind == "flipped":
        changed = bytearray(data)
        changed[where // 8] ^= 1 << where % 8
        return bytes(changed)
    return data[:where] if kind == "truncated" else b""


def harm(path, kind, draw):
    """Damage a file, at a place that is drawn."""
    spoil(path, kind, draw.randrange(path.stat().st_size * (8 if kind == "flipped" else 1)))


def spoil(path, kind, where):
    """Damage a file at a place; what it was a hard link of stays whole."""
    data = path.read_bytes()
    path.unlink()
    if kind != "deleted":
        path.write_bytes(damaged(data, kind, where))
