"""Every documented checkpoint layout loads to the same network; every damaged one is refused by name."""

import argparse
import hashlib
import json
from collections import OrderedDict
from fractions import Fraction

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from models.checkpoints import HEADS, fit_positions
from models.teachers import build, load_teacher

# Named timm models shrunk, so that the published key names and shapes stay while the files stay small.
SHRUNK = {"embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 1}
PLAIN, DINOV2, REGISTERS = "vit_small_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    create = timm.create_model

    def small(name, **options):
        return create(name, **{**(SHRUNK if name.startswith("vit_small") else {}), **options})

    monkeypatch.setattr(timm, "create_model", small)


def network(name: str = PLAIN, size: int = 64) -> VisionTransformer:
    torch.manual_seed(0)
    vit = build({"timm": name}, size)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return vit.eval()


def prefixed(state: dict, prefix: str) -> dict:
    return OrderedDict((prefix + key, value) for key, value in state.items())


def self_distillation(state: dict, *, wrapped: str, seed: float = 0.0) -> dict:
    """One network of a full DINO or iBOT checkpoint: backbone, projection head, iBOT's mask embedding."""
    heads = ("head.mlp.0.weight", "head.mlp.0.bias", "head.last_layer.weight_g", "head.last_layer.weight_v")
    shifted = {key: value + seed for key, value in state.items()}
    shifted["masked_embed"] = torch.zeros(1, 12)
    return prefixed(shifted, f"{wrapped}backbone.") | {wrapped + key: torch.randn(3, 3) for key in heads}


def mae_full(state: dict) -> dict:
    names = (
        "mask_token",
        "decoder_pos_embed",
        "decoder_embed.weight",
        "decoder_blocks.0.attn.qkv.weight",
        "decoder_pred.bias",
    )
    return state | {name: torch.randn(4) for name in names} | {"decoder_norm.weight": torch.ones(4)}


def trained(state: dict) -> dict:
    """What MAE's and SemMAE's own runs save beside the weights."""
    options = argparse.Namespace(lr=1e-3, output_dir="out", betas=(0.9, 0.95))
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": np.float64(0.1)}]}
    return {"model": state, "optimizer": optimizer, "epoch": 799, "scaler": {"scale": 1.0}, "args": options}


LAYOUTS = {
    "bare": lambda s: s,
    "ibot_teacher": lambda s: {"state_dict": s},
    "parallel": lambda s: prefixed(s, "module."),
    "timm_with_classifier": lambda s: s | {"head.weight": torch.randn(10, 12), "head.bias": torch.randn(10)},
    "half_precision": lambda s: {key: value.half() for key, value in s.items()},
    "mae_encoder": lambda s: {"model": s},
    "mae_full": lambda s: {"model": mae_full(s)},
    "semmae_run": lambda s: trained(mae_full(s)),
    "full_teacher": lambda s: {
        "student": self_distillation(s, wrapped="module.", seed=1.0),
        "teacher": self_distillation(s, wrapped=""),
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": {"center": torch.zeros(1, 3)},
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_load_teacher__every_layout(layout, tmp_path):
    vit, images = network(), torch.randn(2, 3, 64, 64)
    path = tmp_path / "checkpoint.pth"
    torch.save(LAYOUTS[layout](vit.state_dict()), path)
    loaded = load_teacher(path, architecture=PLAIN, image_size=64)
    with torch.no_grad():
        expected, found = vit.forward_features(images), loaded.forward_features(images)
    assert torch.allclose(expected, found, atol=0.05 if layout == "half_precision" else 1e-6)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert all(p.dtype == torch.float32 for p in loaded.parameters())


def test_load_teacher__student_of_a_full_checkpoint(tmp_path):
    state = network().state_dict()
    torch.save(LAYOUTS["full_teacher"](state), tmp_path / "full.pth")
    student = load_teacher(tmp_path / "full.pth", architecture=PLAIN, image_size=64, branch="student")
    assert torch.equal(student.norm.bias, state["norm.bias"] + 1)


@pytest.mark.parametrize("architecture", [DINOV2, REGISTERS])
def test_load_teacher__dinov2_as_published(architecture, tmp_path):
    """Registers, LayerScale, mask token, positions of the class token, and blocks in chunks."""
    vit, images = network(architecture, 56), torch.randn(1, 3, 56, 56)
    published = OrderedDict()
    for key, value in vit.state_dict().items():
        published[key.replace("blocks.1.", "blocks.0.1.").replace("reg_token", "register_tokens")] = value
    published["mask_token"] = torch.zeros(1, 12)
    if vit.no_embed_class:
        first = torch.randn(1, 1, 12)
        published["pos_embed"] = torch.cat([first, vit.pos_embed.detach()], dim=1)
        published["cls_token"] = vit.cls_token.detach() - first
    torch.save(published, tmp_path / "dinov2.pth")
    loaded = load_teacher(tmp_path / "dinov2.pth", architecture=architecture, image_size=56)
    assert loaded.num_prefix_tokens == (5 if vit.no_embed_class else 1)
    with torch.no_grad():
        assert torch.allclose(vit.forward_features(images), loaded.forward_features(images), atol=1e-5)


def test_load_teacher__resamples_positions_like_the_published_code(tmp_path):
    vit = network(size=96)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    loaded = load_teacher(tmp_path / "vit.safetensors", architecture=PLAIN, image_size=(64, 112))
    image = vit.pos_embed.detach()[:, 1:].reshape(1, 6, 6, 12).permute(0, 3, 1, 2)
    expected = F.interpolate(image, size=(4, 7), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    assert torch.equal(loaded.pos_embed[:, 1:], expected) and torch.equal(loaded.pos_embed[:, :1], vit.pos_embed[:, :1])
    assert loaded.forward_features(torch.randn(1, 3, 64, 112)).shape == (1, 29, 12)


def test_fit_positions__equal_number_of_patches_stays_exact():
    vit = build({"timm": PLAIN}, (32, 128))
    assert torch.equal(fit_positions(vit.state_dict(), vit)["pos_embed"], vit.pos_embed)


def without(key):
    return lambda s: {k: v for k, v in s.items() if k != key}


REFUSED = {
    "missing": (without("blocks.1.attn.proj.bias"), r"missing: blocks\.1\.attn\.proj\.bias$"),
    "unexpected": (lambda s: s | {"blocks.0.ls1.gamma": torch.ones(12)}, r"unexpected: blocks\.0\.ls1\.gamma"),
    "another_depth": (lambda s: s | {"blocks.2.norm1.bias": torch.ones(12)}, r"unexpected: blocks\.2\.norm1\.bias"),
    "mis_shaped": (lambda s: s | {"norm.weight": torch.ones(13)}, r"mis-shaped: norm\.weight \[13\] instead of \[12\]"),
    "positions": (lambda s: s | {"pos_embed": torch.ones(1, 19, 12)}, "pos_embed has 19 rows"),
    "foreign": (lambda s: prefixed(s, "backbone.") | {"neck.weight": torch.ones(1)}, r"known head: neck\.weight"),
    "no_vit": (
        lambda s: {"layer1.conv.weight": torch.ones(1)},
        r"patch_embed\.proj\.weight\), got keys such as layer1",
    ),
    "two_vits": (lambda s: prefixed(s, "a.") | prefixed(s, "b."), "got 2 of them"),
    "no_weights": (lambda s: {"epoch": 3, "lr": 0.1}, "no weights in the checkpoint; its keys are epoch, lr"),
    "no_teacher": (lambda s: {"student": s, "epoch": 1}, "has no teacher; it has student"),
    "another_object": (lambda s: {"model": s, "share": Fraction(1, 2)}, "holds the object fractions.Fraction"),
    "a_list": (lambda s: list(s.values()), "holds a list"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_load_teacher__refuses_by_name(fault, tmp_path):
    damage, told = REFUSED[fault]
    torch.save(damage(dict(network().state_dict())), tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=told) as caught:
        load_teacher(tmp_path / "bad.pth", architecture=PLAIN, image_size=64)
    assert "bad.pth" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_load_teacher__refuses_damaged_files(suffix, tmp_path):
    path = tmp_path / f"cut.{suffix}"
    if suffix == "pth":
        torch.save(network().state_dict(), path)
    else:
        save_file(network().state_dict(), path)
    for content in (path.read_bytes()[:-200], b"", b"not weights at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"cut.{suffix}"):
            load_teacher(path, architecture=PLAIN, image_size=64)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"architecture": ""}, "name the timm architecture"),
        ({"architecture": "vit_of_nobody"}, "vit_of_nobody"),
        ({"architecture": "resnet18"}, "resnet18"),
        ({"architecture": "vit_base_patch16_siglip_224"}, "no class token"),
        ({"image_size": 72}, "divisible by the patch size 16x16"),
        ({"sha256": "0" * 64}, "expected 0000"),
    ],
)
def test_load_teacher__refuses_options(options, told, tmp_path):
    save_file(network().state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=told):
        load_teacher(tmp_path / "vit.safetensors", **{"architecture": PLAIN, "image_size": 64, **options})


def test_load_teacher__missing_file(tmp_path):
    with pytest.raises(ValueError, match="nothing.pth: no such"):
        load_teacher(tmp_path / "nothing.pth", architecture=PLAIN)


def test_load_teacher__own_folder(tmp_path):
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 3}
    vit = build(options)
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    config = {"architecture": options, "image_size": 32, "patch_size": 8, "mean": [0.5] * 3, "std": [0.2] * 3}
    (tmp_path / "config.json").write_text(json.dumps(config | {"digest": digest, "source": "train"}))
    assert torch.equal(load_teacher(tmp_path).pos_embed, vit.pos_embed)
    (tmp_path / "config.json").write_text(json.dumps(config | {"digest": "0" * 64, "source": "train"}))
    with pytest.raises(ValueError, match="sha256"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="are missing"):
        load_teacher(tmp_path)


def test_load_teacher__named(monkeypatch):
    """A named model is fetched at its own size and then fitted like any other; without a network it is refused."""
    native = network(size=96)
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **o: native if pretrained else create(name, **o)
    )
    loaded = load_teacher(f"timm:{PLAIN}.dino", image_size=64)
    assert loaded.pos_embed.shape == (1, 17, 12) and torch.equal(loaded.cls_token, native.cls_token)

    def unreachable(name, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ValueError, match=r"timm:nothing: unknown name, or no network .*\(no route to host\)"):
        load_teacher("timm:nothing")


@pytest.mark.parametrize(
    "key", ["head.weight", "module.head.mlp.0.bias", "decoder_blocks.3.norm1.weight", "mask_token"]
)
def test_heads__known(key):
    assert HEADS.match(key)


@pytest.mark.parametrize(
    "key", ["blocks.0.attn.qkv.weight", "headroom.weight", "norm.weight", "reg_token", "fc_norm.weight"]
)
def test_heads__parts_of_the_vit_are_none(key):
    assert not HEADS.match(key)
