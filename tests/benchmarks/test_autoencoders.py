import pytest
import torch

from benchmarks.autoencoders import TimmAutoencoder
from models.mae import MaskedAutoencoder
from models.vit import initialise
from parts.masking import random_mask

SHAPE = {"image_size": 32, "patch_size": 8, "width": 48, "depth": 2, "num_heads": 4}


@pytest.mark.parametrize("decoder_depth", [0, 1, 3])
def test_masked_autoencoder__is_the_plain_composition_of_timm_blocks(decoder_depth):
    shape = {**SHAPE, "decoder_width": 32, "decoder_depth": decoder_depth, "decoder_num_heads": 2}
    own, plain, draw = MaskedAutoencoder(**shape), TimmAutoencoder(**shape), torch.Generator().manual_seed(0)
    initialise(own, draw)
    plain.load_state_dict(own.state_dict())
    images = torch.randn(3, 3, 32, 32, generator=draw)
    mask = random_mask(3, 16, ratio=0.75, generator=draw)
    losses = [own(images, mask)[0], plain(images, mask)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1])
    gradients = {name: weight.grad for name, weight in plain.named_parameters()}
    for name, weight in own.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], msg=name)
