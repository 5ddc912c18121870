import torch
from transformers import ViTMAEConfig

from models.layouts import to_hf
from models.mae import MaskedAutoencoder
from parts.masking import hidden_count

CONFIG = {
    "image_size": 16, "patch_size": 4, "width": 12, "depth": 1, "num_heads": 2, "decoder_width": 8, "decoder_depth": 1,
    "decoder_num_heads": 2, "norm_pix_loss": True,
}  # fmt: skip


def test_to_hf__hides_by_default_as_many_patches_as_training_did():
    state = MaskedAutoencoder(**CONFIG).state_dict()
    for ratio in (0.5, 0.6, 0.75):
        weights, described = to_hf(state, CONFIG, mask_ratio=ratio)
        theirs = ViTMAEConfig(**described)
        assert int(16 * (1 - theirs.mask_ratio)) == 16 - hidden_count(16, ratio)
        assert sum(map(torch.numel, weights.values())) == sum(map(torch.numel, state.values()))
