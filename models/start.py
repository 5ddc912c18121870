"""Start a masked autoencoder from a checkpoint: MAE's or SemMAE's published files, or one of ours."""

from collections.abc import Mapping
from typing import Any

from models.checkpoints import refuse_misfits, tensors_of, vit_state
from models.mae import MaskedAutoencoder
from models.vit import DECODER

# Fixed tables, which the model computes for its own grid.
FIXED = ("pos_embed", "decoder_pos_embed")


def start_from(model: MaskedAutoencoder, content: Mapping[str, Any]) -> bool:
    """Load a checkpoint's content into `model`; returns whether its decoder was loaded: one of the other kind is left out.

    content: the result of `models.checkpoints.read_checkpoint`. The model keeps its own positions, so the image size may
    differ; width, depth and patch size must be equal.
    Raises ValueError that names missing, unexpected and mis-shaped keys, and then leaves the model unchanged.
    """
    state = vit_state(content)
    decoder = {name: value.float() for name, value in tensors_of(content).items() if name.startswith(DECODER)}
    # A mask token without a decoder belongs to a teacher; a self-attention decoder fits no cross-attention one.
    is_cross = any(".cross_attn." in name for name in decoder)
    has_decoder = any(name.startswith("decoder_") for name in decoder) and is_cross == (model.decoder == "cross")
    if has_decoder:
        state |= decoder
    expected = {
        name: value
        for name, value in model.state_dict().items()
        if name not in FIXED and (has_decoder or not name.startswith(DECODER))
    }
    state = {name: value for name, value in state.items() if name not in FIXED}
    refuse_misfits(state, expected)
    model.load_state_dict(state, strict=False)
    return has_decoder
