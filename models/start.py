"""A masked autoencoder that starts from a checkpoint: MAE's or SemMAE's published files, or one of our own."""

from collections.abc import Mapping
from typing import Any

from models.checkpoints import refuse_misfits, tensors_of, vit_state
from models.mae import MaskedAutoencoder

DECODER = ("decoder_", "mask_token")
# Fixed tables, which the model has made for its own grid.
FIXED = ("pos_embed", "decoder_pos_embed")


def start_from(model: MaskedAutoencoder, content: Mapping[str, Any]) -> bool:
    """Load a checkpoint's content into `model`; False where it has no decoder, which then stays as it is.

    content: what `models.checkpoints.read_checkpoint` returns, of any layout known there. Positions are the model's own, so
    the image size may differ; width, depth and patch size may not.
    Raises ValueError that names missing, unexpected and mis-shaped keys; then the model is unchanged.
    """
    state = vit_state(content)
    decoder = {name: value.float() for name, value in tensors_of(content).items() if name.startswith(DECODER)}
    # A mask token alone is that of a teacher, which has no decoder either.
    has_decoder = any(name.startswith("decoder_") for name in decoder)
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
