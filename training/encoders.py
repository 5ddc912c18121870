"""Trained networks on disk: safetensors beside the configuration that rebuilds them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from images.augmentation import normalise
from models.vit import DECODER, VisionTransformer
from shards.files import read_json, write_json
from shards.seals import check_files, write_manifest

WEIGHTS, CONFIG = "model.safetensors", "config.json"
ENCODER_KEYS = ("image_size", "patch_size", "width", "depth", "num_heads")


def save_model(folder: Path, model: torch.nn.Module, config: Mapping[str, Any]) -> None:
    """Write weights and configuration into an existing folder, and the manifest of all files there."""
    save_state(folder, model.state_dict(), config)
    write_manifest(folder)


def save_state(folder: Path, state: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    """Write weights and configuration alone."""
    write_tensors(folder / WEIGHTS, state)
    write_json(folder / CONFIG, dict(config))


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file, marked as torch's: transformers refuses it otherwise."""
    held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        save_file(held, path, metadata={"format": "pt"})
    except SafetensorError as error:
        # Faults of the disk have this type, too.
        raise OSError(f"{path}: not written ({error})") from None


def load_weights(folder: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(state, configuration) of a folder that `save_model` wrote; a damaged file is a ValueError that names it."""
    check_files(folder, WEIGHTS, CONFIG)
    return load_file(Path(folder) / WEIGHTS), read_json(Path(folder) / CONFIG)


def load_encoder_state(folder: str | Path, encoder: VisionTransformer) -> None:
    """Load the encoder's part of a masked autoencoder into `encoder`, and any key that does not fit is an error.

    Keys of the decoder, and of a classifier's head in `encoder`, are the only ones left out.
    """
    state, _ = load_weights(folder)
    kept = {name: value for name, value in state.items() if not name.startswith(DECODER)}
    missing, unexpected = encoder.load_state_dict(kept, strict=False)
    missing = [name for name in missing if not name.startswith(("head.", "fc_norm."))]
    if missing or unexpected:
        raise ValueError(
            f"{folder}: missing keys {missing}, unexpected keys {unexpected}; it is of another architecture"
        )


def load_encoder(folder: str | Path) -> VisionTransformer:
    """The frozen encoder of a pretrained arm, in eval mode."""
    check_files(folder, CONFIG)
    config = read_json(Path(folder) / CONFIG)
    encoder = VisionTransformer(**{name: config[name] for name in ENCODER_KEYS})
    load_encoder_state(folder, encoder)
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def features(encoder: VisionTransformer, pixels: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of the patch tokens after the final norm: (B, D) fp32.

    pixels: (B, 3, h, w) uint8 at the encoder's size; visible: (B, V) indices of the patches that it sees, or all. The
    mean is what MAE-like encoders are fine-tuned on.
    """
    return patch_tokens(encoder, pixels, visible).mean(dim=1).float()


@torch.no_grad()
def patch_tokens(encoder: VisionTransformer, pixels: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
    """The patch tokens after the final norm, (B, L, D), of which `features` takes the mean."""
    device = next(encoder.parameters()).device
    seen = visible if visible is None else visible.to(device)
    return encoder.encode(normalise(pixels.to(device).float() / 255), seen)[:, 1:]
