"""The model card of exported weights: what they are, what they were made from and how they score, read from the run."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config.params import Params
from evaluation.protocols import CLASS_IOU, FACTS, sources
from jobs.fingerprint import digest_of
from jobs.recorded import check_recorded
from reports.comparison import NO_ACCURACY
from shards.files import read_json
from shards.seals import read_sealed

LOADING = {
    "timm": 'import timm\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True)',
    "hf": 'from transformers import ViTMAEModel\n\nmodel = ViTMAEModel.from_pretrained("FOLDER")',
    "mae": 'from safetensors.torch import load_file\n\nstate = load_file("FOLDER/model.safetensors")',
}


def card(job: str, layout: str, params: Params, root: Path = Path()) -> str:
    """Markdown for ARM-SEED below `root`, in a layout of `LOADING`. It has no date and no machine: one run, one card."""
    arm_name, seed = job.rsplit("-", 1)
    arm = params.arms.definitions[arm_name]
    origin: dict[str, Any] = {"data": read_sealed(root / "data" / "shards" / "manifest.json")["data_digest"]}
    if arm.maps != "none" and arm.parts != "truth":
        origin["teacher"] = read_json(root / "teacher" / "config.json")["digest"]
    if arm.parts == "truth":
        origin["masks"] = digest_of(root / "data" / "masks")
    if arm.parts == "learned":
        origin["part learner"] = digest_of(root / "part_learner")
    origin["weights"] = digest_of(root / "pretrained" / job)
    folders = ("pretrain", *(source.folder for source in sources(params)))
    measured = {folder: Path("metrics", folder, f"{job}.json") for folder in folders}
    measured = {folder: path for folder, path in measured.items() if (root / path).is_file()}
    check_recorded(*measured.values(), root=root)
    metrics = {
        f"{folder}: {name}": value
        for folder, path in measured.items()
        for name, value in read_json(root / path).items()
        if not re.fullmatch(CLASS_IOU, name)
    }
    judged = (name.partition(": ") for name in metrics)
    is_judged = any(folder != "pretrain" and not re.fullmatch(FACTS, name) for folder, _, name in judged)
    no_labels = () if is_judged else ("", NO_ACCURACY)
    settings = {"arm": arm.model_dump(), "seed": int(seed), "pretrain": params.pretrain.model_dump()}
    return "\n".join(
        [
            "---",
            "library_name: " + {"hf": "transformers"}.get(layout, layout),
            "pipeline_tag: image-feature-extraction",
            "---",
            "",
            f"# {job}",
            "",
            f"A masked autoencoder (He et al., CVPR 2022) pretrained with the masks of the arm `{arm_name}`; SemMAE's are",
            "those of Li et al., NeurIPS 2022. Input: RGB in [0, 1], normalised by ImageNet's mean and standard deviation.",
            "",
            "The licence of these weights is for you to state: it depends on the images that they were made from.",
            "",
            "```python",
            LOADING[layout],
            "```",
            "",
            "| made from | sha256 |",
            "|---|---|",
            *(f"| {name} | `{digest}` |" for name, digest in origin.items()),
            "",
            "| measured | value |",
            "|---|---|",
            *(f"| {name} | {_number(value)} |" for name, value in metrics.items()),
            *no_labels,
            "",
            "```json",
            json.dumps(settings, indent=2),
            "```",
            "",
        ]
    )


def _number(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def jobs(root: Path, folder: str) -> Mapping[str, Path]:
    """ARM-SEED -> the folder of its weights, for all finished runs."""
    return {path.parent.name: path.parent for path in sorted((root / folder).glob("*/config.json"))}
