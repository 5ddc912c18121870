import pytest
import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

from models.mae import MaskedAutoencoder, sample_hidden, split_mask
from models.vit import initialise, patchify

SHAPE = {
    "image_size": 32,
    "patch_size": 8,
    "width": 48,
    "depth": 2,
    "num_heads": 4,
    "decoder_width": 32,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
}


def make(**changes):
    model = MaskedAutoencoder(**{**SHAPE, **changes})
    initialise(model, torch.Generator().manual_seed(0))
    return model


def some_mask(batch=3, length=16, hidden=12, seed=0):
    return torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)).argsort(dim=1) < hidden


def test_forward__loss_is_the_mean_over_hidden_patches():
    model, images, mask = make(), torch.randn(3, 3, 32, 32), some_mask()
    loss, predictions = model(images, mask)
    total = 0.0
    for row in range(3):
        patches = patchify(images, 8)[row][mask[row]]
        target = (patches - patches.mean(1, keepdim=True)) / (patches.var(1, unbiased=True, keepdim=True) + 1e-6).sqrt()
        total += ((predictions[row] - target) ** 2).mean() / 3
    torch.testing.assert_close(loss, total)
    assert predictions.shape == (3, 12, 192)


def test_forward__without_norm_pix_the_target_is_the_pixels():
    model, images, mask = make(norm_pix_loss=False), torch.randn(3, 3, 32, 32), some_mask()
    loss, predictions = model(images, mask)
    target = torch.stack([patchify(images, 8)[row][mask[row]] for row in range(3)])
    torch.testing.assert_close(loss, ((predictions - target) ** 2).mean())


def test_forward__hidden_pixels_do_not_reach_the_predictions():
    model, images, mask = make(), torch.randn(3, 3, 32, 32), some_mask()
    _, before = model(images, mask)
    pixels = patchify(images, 8)
    pixels[mask] = 7.0
    grid = pixels.reshape(3, 4, 4, 8, 8, 3).permute(0, 5, 1, 3, 2, 4).reshape(3, 3, 32, 32)
    _, after = model(grid, mask)
    assert torch.equal(before, after)
    _, changed = model(-images, mask)
    assert not torch.allclose(before, changed)


def test_forward__agrees_with_a_plain_decoder_over_all_patches():
    """An oracle that embeds everything, keeps the order of the image and predicts every patch, as MAE's text says."""
    model, images, mask = make().eval(), torch.randn(2, 3, 32, 32), some_mask(batch=2)
    _, predictions = model(images, mask)
    visible, _ = split_mask(mask)
    encoded = model.encode(images, visible)
    embedded = model.decoder_embed(encoded)
    full = model.mask_token.expand(2, 16, -1).clone()
    full[~mask] = embedded[:, 1:].reshape(-1, embedded.shape[2])
    tokens = torch.cat([embedded[:, :1], full], dim=1) + model.decoder_pos_embed
    for block in model.decoder_blocks:
        tokens = block(tokens)
    every = model.decoder_pred(model.decoder_norm(tokens))[:, 1:]
    torch.testing.assert_close(predictions, every[mask].reshape(2, 12, -1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("feature_maps", [1, 2, 4])
def test_cross_decoder__is_torchs_multi_head_attention_from_hidden_to_visible_tokens(feature_maps):
    """An oracle of torch's own attention, over sums of the maps that hooks see."""
    model = make(decoder="cross", depth=4, decoder_depth=2, feature_maps=feature_maps).eval()
    images, mask = torch.randn(2, 3, 32, 32), some_mask(batch=2)
    draw = torch.Generator().manual_seed(1)
    outputs = []
    for number, block in enumerate(model.blocks, start=1):
        if number % (4 // feature_maps) == 0:
            block.register_forward_hook(lambda _, __, output: outputs.append(output))
    with torch.no_grad():
        for block in model.decoder_blocks:
            if block.maps is not None:
                assert block.maps.tolist() == [0.0] * (feature_maps - 1) + [1.0], "it begins with the last layer"
                block.maps.normal_(generator=draw)
        _, predictions = model(images, mask)
        visible, hidden = split_mask(mask)
        own = model.decoder_pos_embed[0]
        normed = [torch.nn.functional.layer_norm(one, (48,), eps=1e-6) for one in outputs]
        maps = [model.decoder_embed(one) for one in normed]
        places = torch.stack([own[torch.cat([torch.tensor([0]), 1 + row])] for row in visible])
        tokens = model.mask_token + torch.stack([own[1 + row] for row in hidden])
        for block in model.decoder_blocks:
            attention = torch.nn.MultiheadAttention(32, 2, batch_first=True)
            attention.in_proj_weight.copy_(block.cross_attn.qkv.weight)
            attention.in_proj_bias.copy_(block.cross_attn.qkv.bias)
            attention.out_proj.load_state_dict(block.cross_attn.proj.state_dict())
            weights = [1.0] if block.maps is None else block.maps
            seen = sum(weight * (one + places) for weight, one in zip(weights, maps, strict=True))
            tokens = tokens + attention(block.norm1(tokens), seen, seen)[0]
            tokens = tokens + block.mlp(block.norm2(tokens))
        expected = model.decoder_pred(model.decoder_norm(tokens))
    torch.testing.assert_close(predictions, expected, atol=1e-5, rtol=1e-4)


def test_cross_decoder__each_hidden_patch_is_predicted_as_if_it_were_alone():
    images, mask = torch.randn(3, 3, 32, 32), some_mask()
    some = sample_hidden(mask, torch.rand(3, 16, generator=torch.Generator().manual_seed(2)), 1 / 3)
    _, hidden = split_mask(mask)
    places = (hidden[:, :, None] == some[:, None]).any(dim=2)
    for decoder, is_alone in (("cross", True), ("self", False)):
        model = make(decoder=decoder)
        loss, predictions = model.loss(images, split_mask(mask)[0], some)
        assert predictions.shape == (3, 4, 192)
        _, every = model(images, mask)
        assert torch.allclose(every[places].reshape(3, 4, 192), predictions, atol=1e-5) is is_alone
        target = torch.stack([patchify(images, 8)[row][some[row]] for row in range(3)])
        target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(loss, ((predictions - target) ** 2).mean())


@pytest.mark.parametrize(
    "changes", [{"decoder": "Cross"}, {"feature_maps": 2}, {"decoder": "cross", "feature_maps": 3}]
)
def test_decoder__of_an_unknown_kind_or_of_layers_that_there_are_not_is_refused(changes):
    with pytest.raises(
        ValueError, match="expected self or cross, and several maps, 2 at most, of a cross decoder alone"
    ):
        make(**changes)


def test_sample_hidden__takes_a_share_of_the_hidden_ones_by_score():
    mask, scores = some_mask(), torch.rand(3, 16, generator=torch.Generator().manual_seed(3))
    for share, count in ((1.0, 12), (0.5, 6), (1 / 3, 4), (0.01, 1)):
        rows = sample_hidden(mask, scores, share)
        for row, hidden, score in zip(rows.tolist(), mask, scores, strict=True):
            ranked = sorted((patch for patch in range(16) if hidden[patch]), key=lambda patch: -float(score[patch]))
            assert row == sorted(ranked[:count])


def test_forward__learns_a_constant_image():
    model = make(norm_pix_loss=False)
    images = torch.ones(4, 3, 32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss, _ = model(images, some_mask(batch=4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_state__encoder_loads_strictly_into_timm():
    state = {
        name: value for name, value in make().state_dict().items() if not name.startswith(("decoder_", "mask_token"))
    }
    timm = TimmVisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=0)
    timm.load_state_dict(state, strict=True)


def test_state__names_are_those_of_the_published_code():
    names = {name.split(".")[0] for name in make().state_dict()}
    assert names == {
        "cls_token",
        "pos_embed",
        "patch_embed",
        "blocks",
        "norm",
        "decoder_embed",
        "mask_token",
        "decoder_pos_embed",
        "decoder_blocks",
        "decoder_norm",
        "decoder_pred",
    }


def test_reconstruct__visible_patches_stay_and_hidden_ones_keep_their_statistics():
    model, images, mask = make(), torch.randn(3, 3, 32, 32), some_mask()
    picture = patchify(model.reconstruct(images, mask), 8)
    original = patchify(images, 8)
    assert torch.equal(picture[~mask], original[~mask])
    _, predictions = model(images, mask)
    hidden = original[0][mask[0]]
    expected = predictions[0] * (hidden.var(1, keepdim=True) + 1e-6).sqrt() + hidden.mean(1, keepdim=True)
    torch.testing.assert_close(picture[0][mask[0]], expected)


def test_forward__rectangular_images():
    loss, predictions = make(image_size=(16, 32))(torch.randn(2, 3, 16, 32), some_mask(batch=2, length=8, hidden=6))
    assert predictions.shape == (2, 6, 192)
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.tensor([[True, False], [True, True]]), "rows of the mask hide 1 to 2"),
        (torch.zeros(2, 4, dtype=torch.bool), "hides 0 of 4"),
        (torch.ones(2, 4, dtype=torch.bool), "hides 4 of 4"),
        (torch.ones(2, 4), "dtype torch.float32"),
    ],
)
def test_split_mask__impossible_masks_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        split_mask(mask)


def test_split_mask__indices_ascend_and_partition():
    mask = some_mask()
    visible, hidden = split_mask(mask)
    for row in range(3):
        assert visible[row].tolist() == [i for i in range(16) if not mask[row, i]]
        assert hidden[row].tolist() == [i for i in range(16) if mask[row, i]]
