import pytest
import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

from models.classifier import Classifier, layer_decay_groups
from models.vit import VisionTransformer, initialise, patchify, sincos_positions, unpatchify

SHAPE = {"image_size": (32, 48), "patch_size": 8, "width": 48, "depth": 2, "num_heads": 4}


def make(kind=VisionTransformer, seed=0, **changes):
    model = kind(**{**SHAPE, **changes})
    initialise(model, torch.Generator().manual_seed(seed))
    return model.eval()


def test_encode__agrees_with_timm_on_the_same_weights():
    ours = make()
    timm = TimmVisionTransformer(
        img_size=(32, 48), patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=0
    ).eval()
    timm.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(3, 3, 32, 48)
    torch.testing.assert_close(ours.encode(images), timm.forward_features(images), atol=1e-5, rtol=1e-5)


def test_encode__visible_patches_alone_equal_attention_masked_to_them():
    model = make(depth=1)
    images = torch.randn(2, 3, 32, 48)
    visible = torch.tensor([[1, 4, 9], [0, 2, 23]])
    tokens = model.encode(images, visible)
    # The oracle removes the other patches by hand, image by image.
    for row in range(2):
        full = model.patch_embed(patchify(images[row : row + 1], 8)) + model.pos_embed[:, 1:]
        kept = torch.cat([model.cls_token + model.pos_embed[:, :1], full[:, visible[row]]], dim=1)
        torch.testing.assert_close(tokens[row], model.norm(model.blocks[0](kept))[0])


def test_encode__another_image_size_is_refused():
    with pytest.raises(ValueError, match=r"images are \(32, 32\), the model takes \(32, 48\)"):
        make().encode(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"image_size": 33}, "divisible by patch_size"), ({"num_heads": 5}, "divisible by num_heads")],
)
def test_vision_transformer__impossible_shapes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        VisionTransformer(**{**SHAPE, **change})


def test_patchify__rows_columns_channels():
    images = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6).float()
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    # Patch 4 is row 1, column 1 of the 2 x 3 grid; its second pixel is one column to the right.
    assert torch.equal(patches[1, 4, :3], images[1, :, 2, 2])
    assert torch.equal(patches[1, 4, 3:6], images[1, :, 2, 3])
    assert torch.equal(patches[1, 4, 6:9], images[1, :, 3, 2])
    assert torch.equal(unpatchify(patches, 2, (2, 3)), images)


def test_sincos_positions__depend_on_row_and_column_separately():
    table = sincos_positions((3, 5), 16)[0, 1:].reshape(3, 5, 16)
    assert torch.equal(table[0, :, :8], table[2, :, :8])
    assert torch.equal(table[:, 0, 8:], table[:, 4, 8:])
    assert table.reshape(15, 16).unique(dim=0).shape[0] == 15
    torch.testing.assert_close(table[1, 2, 0], torch.tensor(2.0).sin())
    torch.testing.assert_close(table[1, 2, 8], torch.tensor(1.0).sin())


def test_initialise__is_a_function_of_the_generator():
    first, second, other = make(seed=1).state_dict(), make(seed=1).state_dict(), make(seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


def test_drop_path__drops_image_by_image_and_is_off_in_eval():
    model = make(drop_path=0.5, depth=3)
    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 48).expand(64, -1, -1, -1)
    still = model.encode(images)
    assert torch.equal(still, model.encode(images))
    model.train()
    dropped = model.encode(images)
    # The same image comes out in several ways, one for every choice of dropped paths.
    assert len(dropped.flatten(1).unique(dim=0)) > 8


def test_take_share__rows_drop_what_they_drop_in_the_whole_batch():
    whole, part = (make(Classifier, num_classes=7, drop_path=0.5, depth=3).train() for _ in range(2))
    rows = torch.tensor([1, 4, 5, 9])
    part.take_share(rows, batch=10)
    images, scores = torch.randn(10, 3, 32, 48), []
    for model, seen in ((whole, images), (part, images[rows])):
        torch.manual_seed(0)
        scores.append(model(seen))
    torch.testing.assert_close(scores[1], scores[0][rows])
    assert not torch.allclose(scores[0], whole.eval()(images))
    assert torch.equal(part.eval()(images), whole(images)), "all that is given is seen where nothing is dropped"


def test_classifier__starts_from_the_encoder():
    encoder = make()
    classifier = make(Classifier, seed=5, num_classes=7)
    classifier.start_from(encoder)
    images = torch.randn(2, 3, 32, 48)
    tokens = encoder.encode(images)
    # MAE's fine-tuning takes the mean before the norm; undo ours to compare the blocks below it.
    encoder.norm = torch.nn.Identity()
    torch.testing.assert_close(classifier.encode(images), encoder.encode(images))
    assert classifier(images).shape == (2, 7)
    assert tokens.shape == (2, 25, 48)


def test_layer_decay_groups__scales_fall_from_head_to_embedding():
    model = make(Classifier, num_classes=7)
    groups = layer_decay_groups(model, weight_decay=0.1, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sorted(scale) == sorted(id(p) for p in trained)
    assert scale[id(model.head.weight)] == 1
    assert scale[id(model.blocks[1].attn.qkv.weight)] == 0.5
    assert scale[id(model.blocks[0].attn.qkv.weight)] == 0.25
    assert scale[id(model.patch_embed.proj.weight)] == 0.125
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(model.head.weight)] == 0.1
    assert decay[id(model.head.bias)] == decay[id(model.cls_token)] == 0
