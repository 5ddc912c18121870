import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from models.part_learner import PartLearner, blur, gaussian, start_from_centres, start_from_heads
from parts.attention import extract_all
from parts.clustering import distances, whitening


def learner(**changes):
    settings = {"grid": (3, 5), "width": 8, "num_parts": 4, "token_width": 6}
    torch.manual_seed(0)
    return PartLearner(**{**settings, **changes})


def tokens(batch=2, length=15, width=8):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(batch, width, generator=draw), torch.randn(batch, length, width, generator=draw)


@pytest.mark.parametrize("sigma", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("background", [False, True])
def test_part_learner__maps_of_a_patch_sum_to_one(sigma, background):
    maps = learner(blur_sigma=sigma, background=background)(*tokens())
    assert maps.shape == (2, 4 + background, 3, 5)
    torch.testing.assert_close(maps.sum(dim=1), torch.ones(2, 3, 5))


def test_part_learner__normalised_over_space_a_map_sums_to_one():
    maps = learner(normalise="space")(*tokens())
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(2, 4))


def test_part_learner__moves_with_its_patches():
    model = learner(centre=True)
    cls_token, patches = tokens()
    order = torch.randperm(15, generator=torch.Generator().manual_seed(2))
    moved = model(cls_token, patches[:, order]).flatten(2)
    torch.testing.assert_close(moved, model(cls_token, patches).flatten(2)[:, :, order])


def test_part_learner__an_image_does_not_see_the_others_of_its_batch():
    cls_token, patches = tokens()
    model = learner(blur_sigma=1.0, centre=True)
    torch.testing.assert_close(model(cls_token, patches)[1:], model(cls_token[1:], patches[1:]))


def test_part_learner__centred_tokens_forget_what_all_patches_share():
    model = learner(centre=True)
    cls_token, patches = tokens()
    with torch.no_grad():
        model.patch_norm = torch.nn.Identity()
    torch.testing.assert_close(model(cls_token, patches), model(cls_token, patches + torch.randn(2, 1, 8)))


def test_part_learner__refuses_another_grid():
    with pytest.raises(ValueError, match=r"16 patch tokens, the learner's grid is \(3, 5\)"):
        learner()(*tokens(length=16))


def test_part_learner__refuses_an_unknown_normalisation():
    with pytest.raises(ValueError, match="expected parts or space"):
        learner(normalise="both")


def test_start_from_centres__every_patch_goes_to_the_nearest_centre():
    cls_token, patches = tokens(batch=4)
    normed = torch.nn.functional.layer_norm(patches, (8,))
    matrix, offset = whitening(normed.flatten(0, 1), 6, 0.5)
    points = normed @ matrix.T + offset
    centres = points[0, :4]
    model = learner()
    start_from_centres(model, centres, matrix, offset)
    labels = model(cls_token, patches).argmax(dim=1).flatten(1)
    assert torch.equal(labels, distances(points, centres).argmin(dim=2))


def test_start_from_heads__logits_are_those_of_the_last_attention():
    torch.manual_seed(3)
    vit = VisionTransformer(img_size=12, patch_size=4, embed_dim=12, depth=2, num_heads=3, num_classes=0)
    for norm in (vit.blocks[-1].norm1, vit.norm):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    images = torch.randn(5, 3, 12, 12)
    found = extract_all(vit, images, token_layer=1)
    model = learner(grid=(3, 3), width=12, num_parts=3, token_width=12, normalise="space", background=True)
    start_from_heads(model, vit.blocks[-1].state_dict(), 3)
    maps = model(found.cls_input, found.patch_tokens).flatten(2)[:, :3]
    expected = found.cls_attention / found.cls_attention.sum(dim=2, keepdim=True)
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_parts": 4, "token_width": 12}, "makes 3 parts, one a head; refine.parts is 4"),
        ({"num_parts": 3, "token_width": 6}, "needs refine.token_width 12, the teacher's width; got 6"),
        ({"num_parts": 3, "token_width": 12, "centre": True}, "set refine.centre to false"),
    ],
)
def test_start_from_heads__says_what_does_not_fit(changes, message):
    block = {"attn.qkv.weight": torch.zeros(36, 12)}
    with pytest.raises(ValueError, match=message):
        start_from_heads(learner(width=12, **changes), block, 3)


def test_start_from_heads__refuses_normalised_queries():
    model = learner(width=12, num_parts=3, token_width=12)
    block = {"attn.qkv.weight": torch.zeros(36, 12), "attn.q_norm.weight": torch.ones(4)}
    with pytest.raises(ValueError, match="normalises its queries; use random or clusters"):
        start_from_heads(model, block, 3)


def test_gaussian__is_symmetric_and_sums_to_one():
    for sigma in (0.0, 0.5, 1.5):
        kernel = gaussian(sigma)
        assert len(kernel) % 2 == 1
        torch.testing.assert_close(kernel, kernel.flip(0))
        assert kernel.sum() == pytest.approx(1)


def test_blur__keeps_constant_maps_and_spreads_a_point():
    kernel = gaussian(1.0)
    torch.testing.assert_close(blur(torch.full((1, 2, 4, 4), 0.3), kernel), torch.full((1, 2, 4, 4), 0.3))
    point = torch.zeros(1, 1, 7, 7)
    point[0, 0, 3, 3] = 1
    spread = blur(point, kernel)[0, 0]
    torch.testing.assert_close(spread, torch.nn.functional.pad(torch.outer(kernel, kernel), (1, 1, 1, 1)))
