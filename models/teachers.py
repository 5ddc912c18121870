"""The frozen vision transformer whose attention initialises the parts: from our folder, a checkpoint file, or timm."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.checkpoints import load_state, read_checkpoint, vit_state

# timm takes seconds to import: only what builds a network waits for it.
if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

WEIGHTS, CONFIG = "model.safetensors", "config.json"
NAMED = ("timm:", "hf-hub:")
CONFIG_KEYS = {"architecture", "image_size", "patch_size", "mean", "std", "digest", "source"}

Size = int | tuple[int, int]


def load_teacher(
    source: str | Path,
    *,
    architecture: str = "",
    image_size: Size | None = None,
    branch: str = "teacher",
    sha256: str = "",
) -> "VisionTransformer":
    """A timm VisionTransformer without a classifier, frozen and in eval mode, on the CPU.

    source: the folder that `train_teacher` writes; a checkpoint file of a layout in `models.checkpoints`; or `timm:NAME` or
        `hf-hub:NAME`, which need a network.
    architecture: timm model of a checkpoint file.
    image_size: input in pixels, or (height, width), divisible by the patch size; None keeps the folder's or the model's.
    branch: `student` or `teacher` of a self-distillation checkpoint.
    sha256: of a checkpoint file; empty skips the check.
    Raises ValueError that names the file or its missing, unexpected and mis-shaped keys.
    """
    source = str(source)
    if source.startswith(NAMED):
        vit = _load_named(source, image_size)
    elif Path(source).is_dir():
        vit = _load_folder(Path(source), image_size)
    else:
        vit = _load_file(Path(source), architecture, image_size, branch, sha256)
    return vit.eval().requires_grad_(False)


def build(architecture: Mapping[str, Any], image_size: Size | None = None) -> "VisionTransformer":
    """A VisionTransformer with timm's initial weights and no classifier.

    architecture: {"timm": NAME, ...options} or the keyword arguments of timm's VisionTransformer.
    Raises ValueError for an unknown name, another kind of network, no class token, or a size not divisible into patches.
    """
    import timm
    from timm.models.vision_transformer import VisionTransformer

    options = {**architecture, "num_classes": 0}
    if image_size is not None:
        options["img_size"] = image_size
    name = options.pop("timm", "VisionTransformer")
    try:
        vit = timm.create_model(name, **options) if "timm" in architecture else VisionTransformer(**options)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"architecture {name}: {str(error).splitlines()[0]}") from None
    if not isinstance(vit, VisionTransformer):
        raise ValueError(f"architecture {name} is a {type(vit).__name__}; expected a plain vision transformer")
    if vit.cls_token is None:
        raise ValueError(
            f"architecture {name} has no class token, whose attention initialises the parts; choose another"
        )
    height, width = vit.patch_embed.img_size
    rows, columns = vit.patch_embed.patch_size
    if height % rows or width % columns:
        raise ValueError(f"image_size {height}x{width} must be divisible by the patch size {rows}x{columns}")
    return vit


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a teacher folder: architecture, image_size, patch_size, mean, std, digest, source."""
    path = Path(folder) / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: missing or damaged ({error}); run `dvc repro train_teacher`") from None
    if missing := CONFIG_KEYS - config.keys():
        raise ValueError(f"{path}: keys {sorted(missing)} are missing; run `dvc repro train_teacher` again")
    return config


def architecture_of(source: str) -> dict[str, Any]:
    """Argument of `build` for a named model: {"timm": NAME, ...options}. Looks up an `hf-hub:` name; else ValueError."""
    kind, name = source.split(":", 1)
    if kind == "timm":
        return {"timm": name.split(".")[0]}
    from timm.models import load_model_config_from_hf

    try:
        _, model, options = load_model_config_from_hf(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source}: cannot be reached or has no config.json ({str(error).splitlines()[0]})") from None
    return {"timm": model, **(options or {})}


def statistics_of(vit: "VisionTransformer") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) a channel of the RGB input in [0, 1] that a named model was trained with."""
    config: Any = vit.pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])


def _load_folder(folder: Path, image_size: Size | None) -> "VisionTransformer":
    config = read_config(folder)
    vit = build(config["architecture"], config["image_size"] if image_size is None else image_size)
    _load(vit, read_checkpoint(folder / WEIGHTS, sha256=config["digest"]), str(folder))
    return vit


def _load_file(path: Path, architecture: str, image_size: Size | None, branch: str, sha256: str) -> "VisionTransformer":
    content = read_checkpoint(path, sha256=sha256)
    if not architecture:
        raise ValueError(f"{path}: name the timm architecture of the checkpoint, for example vit_small_patch16_224")
    vit = build({"timm": architecture}, image_size)
    _load(vit, content, str(path), branch)
    return vit


def _load_named(source: str, image_size: Size | None) -> "VisionTransformer":
    """Load at the model's own size first, so that positions of every source are resampled in the same way."""
    import timm

    name = source.removeprefix("timm:")
    try:
        native = timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{source}: unknown name, or no network to fetch it ({str(error).splitlines()[0]})") from None
    vit = build(architecture_of(source), image_size)
    vit.pretrained_cfg = native.pretrained_cfg
    _load(vit, native.state_dict(), source)
    return vit


def _load(vit: "VisionTransformer", content: Mapping[str, Any], name: str, branch: str = "teacher") -> None:
    try:
        load_state(vit, vit_state(content, branch=branch))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
