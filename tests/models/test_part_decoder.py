import pytest
import torch

from models.part_decoder import AdaIN, PartDecoder, initialise_decoder


def decoder(grid=(4, 4), image_size=(16, 16)):
    model = PartDecoder(num_maps=5, style_width=6, grid=grid, image_size=image_size, width=16)
    initialise_decoder(model, torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize(
    ("grid", "image_size"),
    [((4, 4), (16, 16)), ((4, 4), (4, 4)), ((3, 5), (24, 40)), ((4, 4), (22, 18)), ((8, 8), (5, 5))],
)
def test_part_decoder__reaches_any_size(grid, image_size):
    images = decoder(grid, image_size)(torch.rand(2, 5, *grid), torch.randn(2, 6))
    assert images.shape == (2, 3, *image_size)


def test_part_decoder__is_a_function_of_maps_and_class_token():
    model = decoder()
    maps, cls_token = torch.rand(2, 5, 4, 4), torch.randn(2, 6)
    assert torch.equal(model(maps, cls_token), model(maps, cls_token))
    assert not torch.allclose(model(maps, cls_token), model(maps.flip(1), cls_token))
    assert not torch.allclose(model(maps, cls_token), model(maps, -cls_token))


def test_part_decoder__learns_images_made_of_parts():
    draw = torch.Generator().manual_seed(1)
    maps = torch.nn.functional.one_hot(torch.randint(5, (8, 4, 4), generator=draw), 5).permute(0, 3, 1, 2).float()
    colours = torch.rand(5, 3, generator=draw)
    images = torch.einsum("bshw,sc->bchw", maps, colours).repeat_interleave(4, 2).repeat_interleave(4, 3)
    model = decoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    cls_token = torch.randn(8, 6, generator=draw)
    losses = []
    for _ in range(60):
        loss = (model(maps, cls_token) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-1] < 0.5 * images.var()


def test_initialise_decoder__draws_from_the_generator_alone():
    torch.manual_seed(1)
    first = decoder().state_dict()
    torch.manual_seed(2)
    second = decoder().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_adain__gives_the_scale_and_shift_of_the_style():
    layer = AdaIN(3, 2)
    with torch.no_grad():
        layer.affine.weight.zero_()
        layer.affine.bias.copy_(torch.tensor([1.0, 0.5, 3.0, -2.0]))
    out = layer(torch.randn(4, 2, 8, 8) * 7 + 5, torch.randn(4, 3))
    torch.testing.assert_close(out.mean(dim=(2, 3)), torch.tensor([[3.0, -2.0]]).expand(4, 2), atol=1e-4, rtol=0)
    deviations = out.std(dim=(2, 3), correction=0)
    torch.testing.assert_close(deviations, torch.tensor([[2.0, 1.5]]).expand(4, 2), atol=1e-3, rtol=0)
