"""Laws of parts/attention.py: it equals the unfused path and leaves the model as it was."""

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from parts.attention import extract

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 0}
VARIANTS = {
    "plain": {},
    "registers_and_layer_scale": {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.3},
    "qk_norm": {"qk_norm": True},
    "scale_norm": {"scale_attn_norm": True},
    "pre_norm": {"pre_norm": True},
    "dynamic": {"dynamic_img_size": True},
    "drop": {"drop_path_rate": 0.5, "attn_drop_rate": 0.5, "proj_drop_rate": 0.5},
    "pooled": {"global_pool": "avg"},
}


def make(**options) -> VisionTransformer:
    torch.manual_seed(0)
    vit = VisionTransformer(**{**TINY, **options})
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return vit.eval()


def unfused(vit: VisionTransformer, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The oracle: whole attention maps (B, H, N, N) of the last block, its input, and the final tokens."""
    seen = {}
    attention = vit.blocks[-1].attn
    attention.fused_attn = False
    hooks = [
        attention.attn_drop.register_forward_hook(lambda module, inputs, output: seen.update(maps=output)),
        vit.blocks[-1].register_forward_pre_hook(lambda module, inputs: seen.update(entering=inputs[0])),
    ]
    with torch.no_grad():
        tokens = vit.forward_features(images)
    for hook in hooks:
        hook.remove()
    attention.fused_attn = True
    return seen["maps"], seen["entering"], tokens


@pytest.mark.parametrize("name", VARIANTS)
def test_extract__equals_unfused_attention(name):
    vit, images = make(**VARIANTS[name]), torch.randn(2, 3, 32, 32)
    maps, entering, tokens = unfused(vit, images)
    prefix = vit.num_prefix_tokens
    attention, cls_token, patches = extract(vit, images)
    assert torch.allclose(attention, maps[:, :, 0, prefix:], atol=1e-6)
    assert torch.allclose(cls_token, tokens[:, 0], atol=1e-5)
    assert torch.allclose(patches, tokens[:, prefix:], atol=1e-5)
    assert torch.allclose(extract(vit, images, token_layer=1)[2], entering[:, prefix:], atol=1e-5)
    first = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    assert torch.allclose(extract(vit, images, token_layer=len(vit.blocks))[2], first[:, prefix:], atol=1e-5)


def test_extract__dinov2_with_registers_as_timm_builds_it():
    name = "vit_small_patch14_reg4_dinov2"
    vit = timm.create_model(name, img_size=42, num_classes=0, embed_dim=48, depth=2, num_heads=4).eval()
    images = torch.randn(2, 3, 42, 42)
    maps, _, tokens = unfused(vit, images)
    attention, _, patches = extract(vit, images)
    assert attention.shape == (2, 4, 9) and patches.shape == (2, 9, 48) and vit.num_prefix_tokens == 5
    assert torch.allclose(attention, maps[:, :, 0, 5:], atol=1e-6)
    assert torch.allclose(patches, tokens[:, 5:], atol=1e-5)


def test_extract__rectangular_and_dynamic_sizes():
    vit = make(img_size=(16, 40))
    assert extract(vit, torch.randn(2, 3, 16, 40))[2].shape == (2, 10, 24)
    assert extract(make(dynamic_img_size=True), torch.randn(2, 3, 16, 40))[0].shape == (2, 3, 10)


def test_extract__rows_sum_to_less_than_one():
    attention = extract(make(reg_tokens=2), torch.randn(2, 3, 32, 32))[0]
    assert (attention > 0).all() and (attention.sum(-1) < 1).all()


def test_extract__leaves_the_model_as_it_was():
    vit = make(**VARIANTS["drop"]).train()
    vit.norm.eval()
    modes = [module.training for module in vit.modules()]
    vit.blocks[-1].attn.fused_attn = False
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    first, second = extract(vit, images), extract(vit, images)
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(first, second, strict=True))
    assert modes == [module.training for module in vit.modules()]
    assert vit.blocks[-1].attn.fused_attn is False and vit.blocks[0].attn.fused_attn is True
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vit.modules())


def test_extract__fp32_out_of_half_precision():
    vit = make()
    exact = extract(vit, torch.ones(1, 3, 32, 32))
    rough = extract(vit.bfloat16(), torch.ones(1, 3, 32, 32, dtype=torch.bfloat16))
    assert all(part.dtype == torch.float32 for part in rough)
    assert torch.allclose(exact[0], rough[0], atol=0.05)


def test_extract__restores_after_a_failure():
    vit = make().train()
    with pytest.raises(RuntimeError):
        extract(vit, torch.randn(1, 4, 32, 32))
    assert all(module.training and not module._forward_hooks for module in vit.modules())


@pytest.mark.parametrize(
    ("options", "images", "layer", "match"),
    [
        ({"class_token": False, "global_pool": "avg"}, (1, 3, 32, 32), 0, "class token"),
        ({}, (1, 3, 24, 32), 0, r"\(24, 32\), the model takes \(32, 32\)"),
        ({}, (3, 32, 32), 0, "expected"),
        ({}, (1, 3, 32, 32), 9, "token_layer"),
    ],
)
def test_extract__refuses(options, images, layer, match):
    with pytest.raises(ValueError, match=match):
        extract(make(**options), torch.randn(images), token_layer=layer)
