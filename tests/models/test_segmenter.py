import pytest
import torch

from evaluation.segmenting import encoder_at
from models.segmenter import Segmenter, levels_of
from models.vit import VisionTransformer, resized_positions, sincos_positions

SHAPE = {"image_size": 24, "patch_size": 4, "width": 16, "depth": 3, "num_heads": 2}


def encoder(**changes):
    torch.manual_seed(0)
    return VisionTransformer(**{**SHAPE, **changes}).eval()


def test_levels_of__the_last_one_is_what_every_other_protocol_sees():
    vit, images = encoder(), torch.randn(2, 3, 24, 24)
    levels = levels_of(vit, images)
    assert [level.shape for level in levels] == [(2, 16, 6, 6)] * 4
    assert torch.equal(levels[-1].flatten(2).transpose(1, 2), vit.encode(images)[:, 1:])


@pytest.mark.parametrize("size", [24, 20])
@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_segmenter__scores_every_pixel_and_trains_what_it_should(head, size):
    model = Segmenter(encoder(image_size=size), head=head, channels=8, num_classes=5).train()
    scores = model(torch.randn(2, 3, size, size))
    assert scores.shape == (2, 5, size, size)
    scores.square().mean().backward()
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert all(name in reached for name, _ in model.named_parameters() if name.startswith("head."))
    of_encoder = {name for name in reached if name.startswith("encoder.")}
    assert bool(of_encoder) == (head == "upernet")
    assert "encoder.pos_embed" not in of_encoder


def test_resized_positions__keep_the_class_token_and_stay_where_the_grid_is_the_same():
    positions = sincos_positions((6, 6), 16)
    assert torch.equal(resized_positions(positions, (6, 6), (6, 6)), positions)
    other = resized_positions(positions, (6, 6), (9, 12))
    assert other.shape == (1, 1 + 9 * 12, 16)
    assert torch.equal(other[:, :1], positions[:, :1])


def test_encoder_at__another_size_is_the_same_network():
    vit = encoder()
    assert torch.equal(encoder_at(vit, 24).encode(torch.ones(1, 3, 24, 24)), vit.encode(torch.ones(1, 3, 24, 24)))
    larger = encoder_at(vit, 48)
    assert larger.grid == (12, 12)
    assert torch.equal(larger.blocks[0].mlp.fc1.weight, vit.blocks[0].mlp.fc1.weight)
