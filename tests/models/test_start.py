import pytest
import torch

from models.mae import MaskedAutoencoder
from models.start import start_from
from models.vit import initialise
from parts.masking import random_mask

SHAPE = {
    "image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "num_heads": 2,
    "decoder_width": 16, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip


def make(seed=0, **changes):
    model = MaskedAutoencoder(**{**SHAPE, **changes})
    initialise(model, torch.Generator().manual_seed(seed))
    return model


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 7}, lambda s: {"state_dict": s}])
def test_start_from__the_whole_autoencoder(wrap):
    theirs, own = make(1), make(2)
    assert start_from(own, wrap(weights(theirs)))
    images, mask = torch.randn(2, 3, 32, 32), random_mask(2, 16, ratio=0.75, generator=torch.Generator().manual_seed(0))
    assert torch.equal(theirs(images, mask)[0], own(images, mask)[0])


def test_start_from__an_encoder_alone_leaves_the_decoder():
    theirs, own = make(1), make(2)
    before = weights(own)
    encoder = {
        name: value for name, value in weights(theirs).items() if not name.startswith(("decoder_", "mask_token"))
    }
    assert not start_from(own, encoder | {"head.weight": torch.zeros(5, 24), "head.bias": torch.zeros(5)})
    for name, value in own.state_dict().items():
        source = before if name.startswith(("decoder_", "mask_token")) else encoder
        assert torch.equal(value, source[name]), name


@pytest.mark.parametrize("kinds", [("self", "cross"), ("cross", "self")])
def test_start_from__a_decoder_of_another_kind_is_left(kinds):
    theirs, own = make(1, decoder=kinds[0]), make(2, decoder=kinds[1])
    before = weights(own)
    assert not start_from(own, weights(theirs))
    for name, value in own.state_dict().items():
        source = before if name.startswith(("decoder_", "mask_token")) else weights(theirs)
        assert torch.equal(value, source[name]), name


def test_start_from__positions_are_those_of_the_models_own_grid():
    own = make(2, image_size=48)
    before = weights(own)
    start_from(own, weights(make(1)))
    assert torch.equal(own.pos_embed, before["pos_embed"]) and own.grid == (6, 6)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("blocks.1.mlp.fc2.bias"), "missing: blocks.1.mlp.fc2.bias"),
        (lambda s: s.pop("decoder_norm.bias"), "missing: decoder_norm.bias"),
        (
            lambda s: s.update({"decoder_blocks.7.norm1.bias": torch.zeros(16)}),
            "unexpected: decoder_blocks.7.norm1.bias",
        ),
        (lambda s: s.update({"cls_token": torch.zeros(1, 1, 8)}), r"mis-shaped: cls_token \[1, 1, 8\] instead of"),
    ],
)
def test_start_from__a_damaged_state_is_refused_by_key_and_changes_nothing(damage, message):
    own, state = make(2), weights(make(1))
    before = weights(own)
    damage(state)
    with pytest.raises(ValueError, match=message):
        start_from(own, state)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
