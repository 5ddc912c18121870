"""Attention heads, part maps, part labels, and the image rebuilt from its parts, as arrays.

n images, H heads, K parts, S maps (K, and a background slot if there is one), (gh, gw) patch grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.part_decoder import PartDecoder
from models.part_losses import memberships
from parts.attention import extract_all
from training.encoders import load_weights
from training.part_labels import FrozenParts
from training.teacher import FrozenTeacher


@dataclass(frozen=True)
class Dissection:
    """heads: (n, H, gh, gw) attention of the class token. shares: (n, S, gh, gw) in [0, 1], of 1 at every patch.

    labels: (n, gh, gw) uint8, 0..num_parts-1 parts and num_parts background. rebuilt: (n, h, w, 3) uint8 images
    decoded from the maps and the class token, None if no decoder was trained.
    """

    heads: np.ndarray
    shares: np.ndarray
    labels: np.ndarray
    rebuilt: np.ndarray | None
    num_parts: int


@torch.no_grad()
def dissect(
    encoded: Sequence[bytes], teacher: FrozenTeacher, parts: FrozenParts, decoder: PartDecoder | None
) -> Dissection:
    """Run n encoded images through teacher, part learner and decoder.

    Raises ValueError if the part learner belongs to another teacher.
    """
    if parts.width != teacher.vit.embed_dim:
        raise ValueError(
            f"part learner takes tokens {parts.width} wide, the teacher's are {teacher.vit.embed_dim}; "
            "run `dvc repro refine_parts`"
        )
    extracted = extract_all(teacher.vit, teacher.inputs(encoded), token_layer=parts.token_layer)
    maps = parts.maps(extracted)
    rebuilt = None
    if decoder is not None:
        pixels = decoder(maps, extracted.cls_input).clamp(0, 1) * 255
        rebuilt = pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return Dissection(
        heads=extracted.cls_attention.unflatten(2, teacher.grid).cpu().numpy(),
        shares=memberships(maps).unflatten(2, teacher.grid).cpu().numpy(),
        labels=parts.labels(maps, extracted).cpu().numpy(),
        rebuilt=rebuilt,
        num_parts=parts.num_parts,
    )


def load_decoder(folder: Path, device: torch.device) -> PartDecoder | None:
    """The decoder of a part learner folder, in eval mode; None if no loss used reconstructions."""
    if not (folder / "decoder").is_dir():
        return None
    state, config = load_weights(folder / "decoder")
    decoder = PartDecoder(**config)
    decoder.load_state_dict(state)
    return decoder.to(device).eval()
