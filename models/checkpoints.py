"""The weights of a vision transformer from published checkpoint files, whatever wraps them.

Known layouts: a bare state; {state_dict} (iBOT teacher, timm, MMPretrain-like); {model} (MAE, DeiT); {student, teacher}
of a full self-distillation run (iBOT, DINO, DINOv2), with any prefix in front of the ViT's keys.
Every key is loaded, or recognised as a head, or named in an error.

D width, (gh, gw) patch grid, prefix: tokens before the patches (class token, registers).
"""

import argparse
import hashlib
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.vit import resized_positions

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

ANCHOR = "patch_embed.proj.weight"
BRANCHES = ("student", "teacher")
WRAPPERS = ("state_dict", "model", "model_state_dict", "network")

# Keys beside a ViT's own: classifiers, projection heads, mask tokens, MAE's decoder.
HEADS = re.compile(
    r"^(?:module\.)?(?:head|heads|head_dist|fc|classifier|dino_head|ibot_head|projector|predictor|pre_logits|mask_token"
    r"|masked_embed|decoder_embed|decoder_pos_embed|decoder_blocks|decoder_norm|decoder_pred)(?:\.|$)"
)

RENAMES = (
    (re.compile(r"^blocks\.\d+\.(\d+)\."), r"blocks.\1."),  # DINOv2 in chunks: the inner number is the block's
    (re.compile(r"\.gamma_([12])$"), r".ls\1.gamma"),  # LayerScale of BEiT and DeiT-3
    (re.compile(r"^register_tokens$"), "reg_token"),
    (re.compile(r"\.mlp\.w12\."), ".mlp.fc1."),  # SwiGLU of the giant DINOv2
    (re.compile(r"\.mlp\.w3\."), ".mlp.fc2."),
)

# Most nested wrappers; the limit stops at a wrapper that holds itself.
MOST_WRAPPERS = 8
# Names of keys that an error lists.
MOST_NAMED = 5
ZIP = b"PK\x03\x04"
# Tensors may claim this multiple of their file's size, since tied weights count twice, plus some slack for small files.
MOST_CLAIMED, SLACK = 2, 1 << 20

# Plain data that training scripts store beside weights; any other object in a pickle is refused.
_SCALAR: Any = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")),
]


def read_checkpoint(path: str | Path, *, sha256: str = "") -> dict[str, Any]:
    """The content of a safetensors or torch file, on the CPU. Runs no code from the file.

    sha256: of the file; empty skips the check.
    Raises ValueError if the file is missing, damaged, holds code or tensors larger than itself, or has another sha256.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint file")
    if sha256:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            raise ValueError(f"{path}: its sha256 is {digest}, expected {sha256}; it is another file or damaged")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _refuse_inflation(path)
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds the object {named[1]}, which is not plain data" if named else "is damaged or no checkpoint"
        raise ValueError(f"{path}: {what}; save its state_dict alone and use that file") from None
    except (SafetensorError, RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: damaged checkpoint ({' '.join(str(error).split())[:200]})") from None
    _refuse_claims(content, path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a dictionary of weights")
    return dict(content)


def vit_state(content: Mapping[str, Any], *, branch: str = "teacher") -> dict[str, Tensor]:
    """The ViT's own weights, fp32, under timm's names.

    content: of any known layout. branch: `student` or `teacher`, for a checkpoint that holds both.
    Raises ValueError for no ViT or several, a missing branch, or a key that is neither the ViT's nor a head's.
    """
    weights = tensors_of(content, branch=branch)
    anchors = [name for name in weights if name.endswith(ANCHOR)]
    if len(anchors) != 1:
        got = f"{len(anchors)} of them" if anchors else f"keys such as {some(weights)}"
        raise ValueError(f"expected one vision transformer (a key that ends with {ANCHOR}), got {got}")
    prefix = anchors[0].removesuffix(ANCHOR)
    state, foreign = {}, []
    for name, value in weights.items():
        own = name.removeprefix(prefix)
        if HEADS.match(own):
            continue
        if name.startswith(prefix):
            state[_renamed(own)] = value.float()
        else:
            foreign.append(name)
    if foreign:
        raise ValueError(f"keys that belong neither to the ViT ({prefix}*) nor to a known head: {some(foreign)}")
    return state


def tensors_of(content: Mapping[str, Any], *, branch: str = "teacher") -> dict[str, Tensor]:
    """All tensors of the network in a checkpoint of any known layout, under its names; ValueError if there are none."""
    tensors = {name: value for name, value in _unwrap(content, branch).items() if isinstance(value, Tensor)}
    odd = [repr(name) for name in tensors if not isinstance(name, str)]
    if odd:
        raise ValueError(f"keys that are not text: {some(odd)}")
    return tensors


def load_state(vit: "VisionTransformer", state: Mapping[str, Tensor]) -> None:
    """Load `vit_state`'s result into a timm VisionTransformer and resample its positions to the model's grid.

    Raises ValueError that names missing, unexpected and mis-shaped keys, and then leaves the model unchanged.
    """
    fitted = fit_positions(state, vit)
    refuse_misfits(fitted, vit.state_dict())
    vit.load_state_dict(fitted)


def refuse_misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise a ValueError that names the missing, unexpected and mis-shaped keys of a state, if any."""
    faults = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "mis-shaped": [
            f"{name} {list(state[name].shape)} instead of {list(value.shape)}"
            for name, value in expected.items()
            if name in state and state[name].shape != value.shape
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {some(names)}" for kind, names in faults.items() if names)
        raise ValueError(f"weights do not fit the architecture: {listed}")


def fit_positions(state: Mapping[str, Tensor], vit: "VisionTransformer") -> dict[str, Tensor]:
    """The state with `pos_embed` for the grid of `vit`: (1, prefix + gh * gw, D).

    Resamples a square source grid by `resized_positions`. If the model has no position for the class token,
    the checkpoint's is added to the token itself.
    Raises ValueError if the source grid is not square.
    Differs: timm antialiases, which changes the attention of a ViT trained without it.
    """
    fitted = dict(state)
    positions = fitted.get("pos_embed")
    if positions is None or vit.pos_embed is None or positions.ndim != 3:
        return fitted
    own_prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    grid = vit.patch_embed.grid_size
    prefix = _prefix_of(positions.shape[1], grid[0] * grid[1], own_prefix)
    if prefix is None:
        raise ValueError(f"mis-shaped: pos_embed has {positions.shape[1]} rows, which are not a square grid of patches")
    count = positions.shape[1] - prefix
    if count != grid[0] * grid[1]:
        positions = resized_positions(positions, (math.isqrt(count), math.isqrt(count)), grid)
    first, patches = positions[:, :prefix], positions[:, prefix:]
    if own_prefix == 0 and prefix == 1 and "cls_token" in fitted:
        fitted["cls_token"] = fitted["cls_token"] + first
        first = first[:, :0]
    fitted["pos_embed"] = torch.cat([first, patches], dim=1)
    return fitted


def some(names: Any) -> str:
    """The first `MOST_NAMED` names, and the number of the others."""
    names = list(names)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _refuse_inflation(path: Path) -> None:
    """ValueError if an archive unpacks to more than its size: `torch.save` never compresses."""
    with open(path, "rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return
    with zipfile.ZipFile(path) as archive:
        held = sum(record.file_size for record in archive.infolist())
    if held > path.stat().st_size:
        raise ValueError(f"{path}: {path.stat().st_size} bytes that unpack to {held}; a checkpoint is not compressed")


def _refuse_claims(content: Any, path: Path) -> None:
    """ValueError if tensors are larger than their file, as expanded views are, or do not hold plain numbers."""
    claimed, seen, waiting = 0, set(), [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
                raise ValueError(
                    f"{path}: holds a tensor that is sparse, quantised or without numbers; save plain weights"
                )
            claimed += value.numel() * value.element_size()
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, Mapping) else value)
    if claimed > MOST_CLAIMED * path.stat().st_size + SLACK:
        raise ValueError(
            f"{path}: its tensors claim {claimed} bytes, the file has {path.stat().st_size}; save them whole"
        )


def _unwrap(content: Mapping[str, Any], branch: str) -> Mapping[str, Any]:
    for _ in range(MOST_WRAPPERS):
        if any(isinstance(value, Tensor) for value in content.values()):
            return content
        branches = [name for name in BRANCHES if isinstance(content.get(name), Mapping)]
        if branches and branch not in branches:
            raise ValueError(f"the checkpoint has no {branch}; it has {', '.join(branches)}")
        wrapper = branch if branches else next((n for n in WRAPPERS if isinstance(content.get(n), Mapping)), None)
        if wrapper is None:
            raise ValueError(f"no weights in the checkpoint; its keys are {some(map(str, content))}")
        content = content[wrapper]
    raise ValueError(f"no weights in the checkpoint within {MOST_WRAPPERS} wrappers")


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _prefix_of(rows: int, patches: int, own_prefix: int) -> int | None:
    """Number of rows before the patches in a positional embedding, or None if no square grid fits."""
    candidates = list(dict.fromkeys((own_prefix, 1, 0)))
    for prefix in candidates:
        if rows - prefix == patches:
            return prefix
    return next((p for p in candidates if rows > p and math.isqrt(rows - p) ** 2 == rows - p), None)
