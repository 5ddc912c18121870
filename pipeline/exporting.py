"""Export the weights of a finished run in the layout of another package, with a model card."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

from config.names import did_you_mean
from config.params import Params
from jobs.dvc_lock import all_entries
from models.layouts import to_hf, to_mae, to_timm
from pipeline.model_card import LOADING, card, jobs
from shards.files import whole_folder, write_text
from training.encoders import load_weights, save_state

LAYOUTS: dict[str, Callable[..., "tuple[dict[str, Tensor], dict[str, Any]]"]] = {
    "timm": to_timm,
    "hf": to_hf,
    "mae": to_mae,
}
assert LAYOUTS.keys() == LOADING.keys()


def export(
    job: str, layout: str, target: Path, params: Params, *, finetuned: bool = False, root: Path = Path()
) -> None:
    """Write the weights of ARM-SEED and their card into the new folder `target`, which appears whole.

    layout: `timm` (the encoder; with `finetuned` the classifier), `hf` (transformers' ViTMAE) or `mae` (the published MAE
    code's names). Raises ValueError for an unknown job or layout, for a target that exists, and where
    the layout does not know the run's decoder.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"format {layout}: expected one of {', '.join(LAYOUTS)}")
    if finetuned and layout != "timm":
        raise ValueError(f"format {layout}: has no classifier; export a fine-tuned model with --format timm")
    known = jobs(root, "finetuned" if finetuned else "pretrained")
    if job not in known:
        existing = ", ".join(known) or "none yet; run `dvc repro`"
        raise ValueError(f"{job}: no such run{did_you_mean(job, known)}; there are {existing}")
    if target.exists():
        raise ValueError(f"{target}: exists already; name another folder with --out, or remove it")
    weights, config = load_weights(known[job])
    if layout != "timm" and config.get("decoder", "self") != "self":
        raise ValueError(
            f"format {layout}: knows no {config['decoder']}-attention decoder; export the encoder alone with --format timm"
        )
    ratio = {"mask_ratio": trained_ratio(job, params, root)} if layout == "hf" else {}
    weights, described = LAYOUTS[layout](weights, config, **ratio)
    with whole_folder(target) as folder:
        save_state(folder, weights, described)
        write_text(folder / "README.md", card(job, layout, params, root))


def trained_ratio(job: str, params: Params, root: Path = Path()) -> float:
    """The share of patches that was hidden in the training of ARM-SEED: as dvc.lock records it, else as `params` has it."""
    entry = all_entries(root / "dvc.lock").get(f"pretrain@{job}", {})
    recorded = entry.get("params", {}).get("params.yaml", {}).get("pretrain", {})
    return recorded.get("mask_ratio", params.pretrain.mask_ratio)
