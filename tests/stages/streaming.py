"""A small job for the stages that stream over image shards: pictures, a teacher and a part learner with random weights."""

import hashlib
import io
import shutil

import numpy as np
import torch
from PIL import Image

from config.presets import compose, write_params
from models.part_learner import PartLearner
from models.teachers import build
from shards.arrays import ArrayShardWriter
from shards.files import write_text
from shards.image_shard_writer import ImageShardWriter
from shards.image_shards import list_shards
from shards.row_index import SPLITS
from tests.conftest import ROOT, TINY, run_stage
from training.encoders import save_model
from training.teacher import write_teacher

ARCHITECTURE = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3}
LEARNER = {"grid": [4, 4], "width": 12, "num_parts": 3, "token_width": 4, "centre": True}
LABELLING = {"token_layer": 1, "attention_mass": 0.6, "label_background": "attention_mass"}
SPLIT_IMAGES = {"train": 40, "val": 5, "test": 9}


def write_images(folder, counts):
    """Image shards of random pictures, some nine a shard; a picture depends on its split and place alone."""
    with ImageShardWriter(folder / "data/shards", classes=["a"], shard_bytes=8000) as writer:
        for split in SPLITS:
            for place in range(counts[split]):
                digest = hashlib.sha256(f"{split}/{place}".encode()).digest()
                image_id = int.from_bytes(digest[:8], "big")
                buffer = io.BytesIO()
                pixels = np.random.default_rng(image_id).integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(buffer, "png")
                writer.add(split, image_id=image_id, label=0, sha256=digest, image=buffer.getvalue(), path="a.png")


def write_job_teacher(folder, *, mean=0.5):
    """A teacher of the same weights each time."""
    torch.manual_seed(0)
    vit = build(ARCHITECTURE, 16)
    write_teacher(folder / "teacher", vit, ARCHITECTURE, source="test", mean=(mean,) * 3, std=(0.2,) * 3)


def write_learner(folder, seed):
    torch.manual_seed(seed)
    (folder / "part_learner").mkdir(exist_ok=True)
    save_model(folder / "part_learner", PartLearner(**LEARNER), {**LEARNER, **LABELLING})


def write_job_params(folder, *, threads=1, **extract):
    document = compose("quickstart")
    document["extract"].update({"batch_size": 4, "part_images": 12, "token_layer": 1, "token_gib": 0.0, **extract})
    document["compute"].update({**TINY["compute"], "threads": threads})
    write_params(document, folder / "params.yaml")


def write_runtime(folder, **changes):
    """The project's runtime.yaml with other values."""
    lines = (ROOT / "runtime.yaml").read_text().splitlines()
    changed = [
        next((f"{key}: {value}" for key, value in changes.items() if line.startswith(f"{key}:")), line)
        for line in lines
    ]
    (folder / "runtime.yaml").write_text("\n".join(changed) + "\n")


def write_no_attention(folder):
    """What extraction stores of no image at all."""
    header = {"teacher": "", "token_layer": 1}
    for name in ("all", "tokens"):
        with ArrayShardWriter(folder / "attention" / name, columns={}, header=header, shard_rows=1):
            pass


def write_job(folder, stage):
    """A folder with all that a stage reads: images, teacher, part learner, parameters, and one file of code."""
    write_no_attention(folder)
    write_job_teacher(folder)
    write_learner(folder, 0)
    write_images(folder, SPLIT_IMAGES)
    write_job_params(folder)
    shutil.copyfile(ROOT / "runtime.yaml", folder / "runtime.yaml")
    write_text(folder / f"stages/{stage}.py", "VERSION = 1\n")
    return folder


def counted_run(job, monkeypatch, module, function):
    """What runs the job's stage, and gives the names of the image shards that `function` of `module` was called for."""
    work, done = getattr(module, function), []
    (stage,) = (path.stem for path in (job / "stages").glob("*.py"))

    def counted(worker, image_shard, *arguments, **options):
        done.append(image_shard.name)
        yield from work(worker, image_shard, *arguments, **options)

    def start():
        done.clear()
        run_stage(job, f"stages.{stage}")
        return list(done)

    monkeypatch.setattr(module, function, counted)
    return start


def names(job):
    """Names of the image shards, in their order."""
    return [shard.path.name for shard in list_shards(job / "data/shards")]


def flip(path):
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
